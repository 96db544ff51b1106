namespace MoeSharp.Tests;

/// <summary>Parts of layers: scale blocks that begin inside another matrix, and slices at any offset.</summary>
public class CudaSliceTests
{
    private const int Experts = 3;

    /// <summary>⌈2I/128⌉ scale rows over gate and up together: where I is no multiple of 128, up begins inside a scale block.</summary>
    [Theory, Trait("Category", "Cuda")]
    [InlineData(7, 128, 192)]
    [InlineData(80, 256, 96)]
    [InlineData(5, 200, 300)]
    [InlineData(3, 64, 40)]
    public void ScaleBlocksThatStraddleGateAndUpAgreeWithTheReference(int tokens, int hidden, int intermediate)
    {
        using CudaBackend backend = Gpu.Open();
        foreach (WeightFormat format in new[] { WeightFormat.Block128, WeightFormat.Block128PowerOfTwo })
        {
            using ExpertWeights weights = Packed(format, hidden, intermediate, PackedScaleRows.Fused, equalScales: false);
            Assert.True(weights.HasStraddlingScales);
            double difference = Gpu.Difference(Run(backend, weights, tokens), Run(ExpertsBackends.Reference, weights, tokens));
            Assert.True(difference <= 5e-4, $"{format} T={tokens} H={hidden} I={intermediate}: calc_diff {difference:E2}");
        }
    }

    /// <summary>With equal scales in every row of blocks it does not matter where they begin: the second pass changes no bit.</summary>
    [Theory, Trait("Category", "Cuda")]
    [InlineData(9, 256, 192)]
    [InlineData(70, 128, 192)]
    public void WhereScaleBlocksBeginDoesNotChangeABitOfEqualScales(int tokens, int hidden, int intermediate)
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights straddling = Packed(WeightFormat.Block128, hidden, intermediate, PackedScaleRows.Fused, equalScales: true);
        using ExpertWeights apart = Packed(WeightFormat.Block128, hidden, intermediate, PackedScaleRows.PerHalf, equalScales: true);
        Assert.Equal(Run(backend, apart, tokens), Run(backend, straddling, tokens));
    }

    [Theory, Trait("Category", "Cuda")]
    [InlineData(ActivationFormat.Fp8)]
    [InlineData(ActivationFormat.Bf16)]
    public void TwoPassesAreCapturedAndReplayedLikeOne(ActivationFormat activations)
    {
        const int tokens = 9;
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = Packed(WeightFormat.Block128, 128, 192, PackedScaleRows.Fused, equalScales: false);
        using var experts = new FusedExperts(new() { TopK = 2, Activations = activations }, weights, backend);
        using var caller = new Caller(backend, experts, tokens);
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        queue.Reserve(experts, tokens);
        caller.Route(RandomLayer.Ids(tokens, 2, Experts, 3));
        using CudaGraph graph = caller.Stream.Capture(() => queue.Forward(experts, caller.Call));
        Assert.Equal(4, graph.Nodes);
        int[] others = RandomLayer.Ids(tokens, 2, Experts, 8, dropped: 0.3);
        caller.Route(others);
        graph.Launch(caller.Stream);
        Assert.Equal(caller.WithSpans(others), caller.Output<BFloat16>());
    }

    /// <summary>Expert-parallel and tensor-parallel slices as a checkpoint gives them, also those that begin inside a block.</summary>
    [Theory, Trait("Category", "Cuda")]
    [InlineData(0, 16, 5, 20)]
    [InlineData(3, 5, 0, 64)]
    [InlineData(0, 16, 64, 64)]
    [InlineData(15, 1, 100, 28)]
    public void SlicesOfACheckpointAgreeWithTheReference(int firstExpert, int experts, int firstRow, int rows)
    {
        using CudaBackend backend = Gpu.Open();
        using Checkpoint model = Checkpoint.Open(Repository.PathOf("samples/tiny-qwen3-moe-fp8"));
        var options = new MoeLayerOptions { Selection = new() { Experts = (firstExpert, experts), Intermediate = (firstRow, rows) } };
        using MoeLayer ours = MoeLayer.Load(model, 0, options with { Backend = backend });
        using MoeLayer reference = MoeLayer.Load(model, 0, options with { Backend = ExpertsBackends.Reference });
        BFloat16[] x = RandomLayer.Hidden(12, ours.HiddenSize, 5), a = new BFloat16[x.Length], b = new BFloat16[x.Length];
        ours.Forward(x, a);
        reference.Forward(x, b);
        Assert.Contains(b, value => value.ToSingle() != 0);
        double difference = Gpu.Difference(a, b);
        Assert.True(difference <= 5e-4, $"experts {firstExpert} + {experts}, rows {firstRow} + {rows}: calc_diff {difference:E2}");
    }

    private static ExpertWeights Packed(WeightFormat format, int hidden, int intermediate, PackedScaleRows rule, bool equalScales)
    {
        var random = new Random(7);
        int scaleColumns = Formats.Blocks(hidden, 128), down = Formats.Blocks(intermediate, 128);
        int scaleRows = rule == PackedScaleRows.Fused ? Formats.Blocks(2 * intermediate, 128) : 2 * down;
        Float8E4M3[] Values(long count) => [.. RandomLayer.Normal(random, (int)count, 60f).Select(Float8E4M3.FromSingle)];
        float Scale(int i)
        {
            float scale = 1.5f / MathF.Sqrt(hidden) / 60f * (equalScales ? 1 + i % scaleColumns : 0.5f + 2 * random.NextSingle());
            return format == WeightFormat.Block128 ? scale : ScaleE8M0.RoundUp(scale).ToSingle();
        }

        Float8E4M3[] w13 = Values(2L * Experts * intermediate * hidden), w2 = Values((long)Experts * intermediate * hidden);
        float[] w2Scales = [.. Enumerable.Repeat(format == WeightFormat.Block128 ? 0.003f : 1f / 256, Experts * scaleColumns * down)];
        float[] w13Scales = [.. Enumerable.Range(0, Experts * scaleRows * scaleColumns).Select(Scale)];
        return ExpertWeights.FromPacked(format, Experts, hidden, intermediate, w13, w13Scales, w2, w2Scales, rule);
    }

    private static BFloat16[] Run(IExpertsBackend backend, ExpertWeights weights, int tokens)
    {
        using var experts = new FusedExperts(new() { TopK = 2 }, weights, backend);
        var output = new BFloat16[tokens * weights.HiddenSize];
        experts.Forward(RandomLayer.Hidden(tokens, weights.HiddenSize, 2), RandomLayer.Ids(tokens, 2, Experts, 3), RandomLayer.TopkWeights(tokens, 2, 4), output);
        return output;
    }
}
