namespace MoeSharp.Tests;

/// <summary>Several GPUs in one process: layers, ranks, and the contexts of a host application.</summary>
public class MultiGpuTests
{
    private const int Experts = 6, TopK = 3, Hidden = 256, Intermediate = 384, Tokens = 20;

    /// <summary>Two threads, two GPUs, one set of weights: every bit as on one.</summary>
    [Fact, Trait("Category", "MultiGpu")]
    public void TwoLayersOnTwoGpusEqualOneGpu()
    {
        (CudaBackend first, CudaBackend second) = Gpu.OpenTwo();
        using (first)
        using (second)
        {
            using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, Experts, Hidden, Intermediate, 1);
            var layers = new FusedExperts[3];
            Parallel.For(0, layers.Length, i => layers[i] = new FusedExperts(new() { TopK = TopK }, weights, i == 1 ? second : first));
            Assert.EndsWith("(GPU 1)", layers[1].Description);
            var outputs = new BFloat16[layers.Length][];
            for (int round = 0; round < 3; round++)
            {
                int seed = round;
                Parallel.For(0, layers.Length, i =>
                {
                    outputs[i] = new BFloat16[Tokens * Hidden];
                    layers[i].Forward(RandomLayer.Hidden(Tokens, Hidden, seed), RandomLayer.Ids(Tokens, TopK, Experts, seed), RandomLayer.TopkWeights(Tokens, TopK, seed), outputs[i]);
                });
                Assert.True(outputs[0].AsSpan().SequenceEqual(outputs[1]), $"round {round}: GPU 1 differs from GPU 0");
                Assert.True(outputs[0].AsSpan().SequenceEqual(outputs[2]), $"round {round}: two layers on GPU 0 differ");
            }
            foreach (FusedExperts layer in layers) layer.Dispose();
        }
    }

    /// <summary>Expert-parallel: each GPU holds every second expert.</summary>
    [Fact, Trait("Category", "MultiGpu")]
    public void RanksOfExpertsOnTwoGpusAddUpToTheLayer()
    {
        using ExpertWeights all = RandomLayer.Weights(WeightFormat.Block128, Experts, Hidden, Intermediate, 1);
        AddUp(all, rank =>
        {
            int[] map = [.. Enumerable.Range(0, Experts).Select(e => e % 2 == rank ? e / 2 : -1)];
            BlockScaledMatrix[] Own(BlockScaledMatrix[] matrices) => [.. matrices.Where((_, e) => e % 2 == rank)];
            return (new(Own(all.Gate), Own(all.Up), Own(all.Down)), map);
        });
    }

    /// <summary>Tensor-parallel: each GPU holds a part of the intermediate dimension, here 128 and 256 of 384.</summary>
    [Fact, Trait("Category", "MultiGpu")]
    public void RanksOfTheIntermediateOnTwoGpusAddUpToTheLayer()
    {
        using ExpertWeights all = RandomLayer.Weights(WeightFormat.Block128, Experts, Hidden, Intermediate, 1);
        AddUp(all, rank =>
        {
            (int first, int count) = rank == 0 ? (0, 128) : (128, 256);
            return (new([.. all.Gate.Select(m => Part(m, first, count, 0, Hidden))], [.. all.Up.Select(m => Part(m, first, count, 0, Hidden))],
                [.. all.Down.Select(m => Part(m, 0, Hidden, first, count))]), []);
        });
    }

    /// <summary>A host application that made the second GPU's context current finds it so after whatever we did on both, errors included.</summary>
    [Fact, Trait("Category", "MultiGpu")]
    public unsafe void WhatWasCurrentStaysCurrent()
    {
        (CudaBackend first, CudaBackend second) = Gpu.OpenTwo();
        using (first)
        using (second)
        {
            Assert.Equal(0, Current());
            using (second.Context().Enter())
            {
                nint theirs = Current();
                Assert.NotEqual(0, theirs);
                using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, Experts, Hidden, Intermediate, 1);
                foreach (CudaBackend gpu in new[] { first, second })
                {
                    using (var layer = new FusedExperts(new() { TopK = 1 }, weights, gpu))
                    {
                        layer.Forward(RandomLayer.Hidden(2, Hidden, 1), new int[2], new float[2], new BFloat16[2 * Hidden]);
                        Assert.Equal(theirs, Current());
                        Assert.Throws<CudaException>(() => new DeviceBuffer(gpu.Context(), 1L << 50, "more than there is"));
                        Assert.Equal(theirs, Current());
                    }
                    using var stop = new CancellationTokenSource();
                    stop.Cancel();
                    Assert.Throws<OperationCanceledException>(() => gpu.Prepare(ExpertsShape.From(new() { TopK = 1 }, weights), weights, false, null, stop.Token));
                    Assert.Equal(theirs, Current());
                }
            }
            Assert.Equal(0, Current());
        }

        static nint Current()
        {
            nint context = 0;
            Native.Check(Native.cuCtxGetCurrent(&context));
            return context;
        }
    }

    /// <summary>Rank 0 on GPU 0, rank 1 on GPU 1: each agrees with the reference of its part, and their sum with that of the whole layer.</summary>
    private static void AddUp(ExpertWeights all, Func<int, (ExpertWeights Weights, int[] Map)> part)
    {
        (CudaBackend first, CudaBackend second) = Gpu.OpenTwo();
        using (first)
        using (second)
        {
            BFloat16[] x = RandomLayer.Hidden(Tokens, Hidden, 2);
            int[] ids = RandomLayer.Ids(Tokens, TopK, Experts, 3, dropped: 0.1);
            float[] w = RandomLayer.TopkWeights(Tokens, TopK, 4);
            var sum = new float[x.Length];
            for (int rank = 0; rank < 2; rank++)
            {
                (ExpertWeights weights, int[] map) = part(rank);
                using (weights)
                {
                    float[] ours = Run(weights, map, rank == 0 ? first : second);
                    double own = Difference(ours, Run(weights, map, ExpertsBackends.Reference));
                    Assert.True(own <= 5e-4, $"rank {rank}: calc_diff {own:E2}");
                    for (int i = 0; i < sum.Length; i++) sum[i] += ours[i];
                }
            }
            double difference = Difference(sum, Run(all, [], ExpertsBackends.Reference));
            Assert.True(difference <= 5e-4, $"the sum of both ranks: calc_diff {difference:E2}");

            float[] Run(ExpertWeights weights, int[] map, IExpertsBackend backend)
            {
                using var experts = new FusedExperts(new() { TopK = TopK, GlobalExperts = Experts }, weights, backend);
                var output = new float[x.Length];
                experts.Forward(new ExpertsInput { Hidden = x, TopkIds = ids, TopkWeights = w, ExpertMap = map }, output);
                return output;
            }
        }
    }

    private static double Difference(float[] x, float[] y) => Accuracy.Of(x, y).CalcDiff;

    /// <summary>Whole blocks of a matrix.</summary>
    private static BlockScaledMatrix Part(BlockScaledMatrix from, int firstRow, int rows, int firstColumn, int columns)
    {
        var values = new List<Float8E4M3>();
        var scales = new List<float>();
        for (int r = firstRow; r < firstRow + rows; r++)
            values.AddRange(System.Runtime.InteropServices.MemoryMarshal.Cast<byte, Float8E4M3>(from.Row(r).Slice(firstColumn, columns)));
        for (int r = firstRow / 128; r < (firstRow + rows) / 128; r++)
            for (int c = firstColumn / 128; c < (firstColumn + columns) / 128; c++) scales.Add(from.ScaleAt(r, c));
        return BlockScaledMatrix.Create(from.Format, rows, columns, [.. values], [.. scales]);
    }
}
