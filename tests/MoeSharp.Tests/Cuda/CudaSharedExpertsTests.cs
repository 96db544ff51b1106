namespace MoeSharp.Tests;

/// <summary>Whole layers on device pointers: shared experts are one more slot of the last step.</summary>
[Trait("Category", "Cuda")]
public class CudaSharedExpertsTests
{
    private static readonly TinyLayer s_tiny = new();

    [Theory]
    [InlineData(1)]
    [InlineData(70)]
    public void ALayerWithoutGateGivesTheBitsOfSpans(int tokens)
    {
        using CudaBackend backend = Gpu.Open();
        using var layer = new MoeLayer((s_tiny with { Gated = false }).Parts(), new() { Backend = backend });
        using var caller = new Caller(backend, layer.Experts, tokens);
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        int[] ids = RandomLayer.Ids(tokens, s_tiny.TopK, s_tiny.Experts, 3, dropped: 0.2);
        caller.Route(ids);
        queue.Forward(layer, caller.Call);
        var bf16 = new BFloat16[tokens * s_tiny.Hidden];
        layer.Forward(caller.Hidden, ids, caller.Weights, bf16);
        CudaQueueTests.Same(bf16, caller.Output<BFloat16>(), "BF16");
        queue.Forward(layer, caller.CallF32);
        var sums = new float[bf16.Length];
        layer.Forward(caller.Hidden, ids, caller.Weights, sums);
        CudaQueueTests.Same(sums, caller.Output<float>(), "FP32");
    }

    [Theory]
    [InlineData(160)]
    [InlineData(200)]
    public void AGateWeighsTheSharedExpertsAsOnTheCpu(int hidden)
    {
        TinyLayer tiny = s_tiny with { Hidden = hidden };
        using CudaBackend backend = Gpu.Open();
        using var layer = new MoeLayer(tiny.Parts(), new() { Backend = backend });
        using var caller = new Caller(backend, layer.Experts, 19);
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        int[] ids = RandomLayer.Ids(19, tiny.TopK, tiny.Experts, 3);
        caller.Route(ids);
        queue.Forward(layer, caller.CallF32);
        var expected = new float[19 * hidden];
        layer.Forward(caller.Hidden, ids, caller.Weights, expected);
        float[] actual = caller.Output<float>();
        float largest = expected.Max(Math.Abs);
        for (int i = 0; i < expected.Length; i++)
            Assert.True(Math.Abs(expected[i] - actual[i]) <= 1e-6f * largest, $"H={hidden}: element {i} is {actual[i]:R} instead of {expected[i]:R}");
    }

    [Fact]
    public void ChunksAndGraphsGiveTheSameBits()
    {
        using CudaBackend backend = Gpu.Open();
        using var layer = new MoeLayer(s_tiny.Parts(), new() { Backend = backend });
        using var caller = new Caller(backend, layer.Experts, 23);
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        long bytes = queue.WorkspaceBytes(layer, 5);
        using var memory = new DeviceBuffer(backend.Context(), bytes, "workspace");
        using var small = new CudaQueue(backend, caller.Stream.Raw, (nint)memory.Address, bytes);
        Assert.True(bytes > queue.WorkspaceBytes(layer.Experts, 5), "shared experts take some workspace too");
        Assert.Equal(bytes, small.WorkspaceBytes(layer, 23));
        queue.Reserve(layer, 23);
        using CudaGraph graph = caller.Stream.Capture(() => queue.Forward(layer, caller.Call));
        foreach (int[] ids in new[] { RandomLayer.Ids(23, s_tiny.TopK, s_tiny.Experts, 3), [.. Enumerable.Repeat(-1, 23 * s_tiny.TopK)] })
        {
            caller.Route(ids);
            queue.Forward(layer, caller.Call);
            BFloat16[] expected = caller.Output<BFloat16>();
            small.Forward(layer, caller.Call);
            CudaQueueTests.Same(expected, caller.Output<BFloat16>(), "chunks of 5");
            caller.Blank();
            graph.Launch(caller.Stream);
            CudaQueueTests.Same(expected, caller.Output<BFloat16>(), "replayed");
        }
    }

    /// <summary>Two ranks of three experts each; the shared experts belong to the first.</summary>
    [Fact]
    public void RanksAddUpToTheLayer()
    {
        using CudaBackend backend = Gpu.Open();
        using var whole = new MoeLayer(s_tiny.Parts(), new() { Backend = backend });
        using var caller = new Caller(backend, whole.Experts, 9);
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        caller.Route(RandomLayer.Ids(9, s_tiny.TopK, s_tiny.Experts, 3));
        queue.Forward(whole, caller.CallF32);
        float[] expected = caller.Output<float>(), sum = new float[expected.Length];
        foreach (int first in new[] { 0, 3 })
        {
            LayerParts all = s_tiny.Parts();
            BlockScaledMatrix[] Slice(IReadOnlyList<BlockScaledMatrix> matrices) => [.. matrices.Skip(first).Take(3)];
            using var rank = new MoeLayer(new LayerParts
            {
                Layer = all.Layer,
                Router = all.Router,
                RouterWeight = all.RouterWeight,
                Experts = new ExpertWeights(Slice(all.Experts.GateMatrices), Slice(all.Experts.UpMatrices), Slice(all.Experts.DownMatrices)),
                ExpertsOptions = all.ExpertsOptions with { GlobalExperts = s_tiny.Experts },
                ExpertMap = [.. Enumerable.Range(0, s_tiny.Experts).Select(e => e >= first && e < first + 3 ? e - first : -1)],
                SharedExperts = first == 0 ? all.SharedExperts : null,
                SharedGate = first == 0 ? all.SharedGate : null,
            }, new() { Backend = backend });
            queue.Forward(rank, caller.CallF32);
            float[] part = caller.Output<float>();
            for (int i = 0; i < sum.Length; i++) sum[i] += part[i];
            _ = caller.Output<float>();
        }
        float largest = expected.Max(Math.Abs);
        for (int i = 0; i < sum.Length; i++) Assert.True(Math.Abs(expected[i] - sum[i]) <= 1e-6f * largest, $"element {i}: ranks give {sum[i]:R}, the layer {expected[i]:R}");
    }
}
