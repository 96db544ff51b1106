namespace MoeSharp.Tests;

/// <summary>Other ways in: hidden states that the caller quantized, and router weights on the input.</summary>
[Trait("Category", "Cuda")]
public class CudaInputTests
{
    [Theory]
    [InlineData(256, 21)]
    [InlineData(200, 70)] // not whole blocks, nor whole chunks of 16
    public void QuantizedInputGivesTheBitsOfBf16(int hidden, int tokens)
    {
        using CudaBackend backend = Gpu.Open();
        foreach (WeightFormat format in new[] { WeightFormat.Block128, WeightFormat.Block128PowerOfTwo })
        {
            using ExpertWeights weights = RandomLayer.Weights(format, 4, hidden, 128, 1);
            using var layer = new FusedExperts(new() { TopK = 2 }, weights, backend);
            using var caller = new Caller(backend, layer, tokens);
            int[] ids = RandomLayer.Ids(tokens, 2, 4, 3, dropped: 0.2);
            BFloat16[] expected = caller.WithSpans(ids), actual = new BFloat16[expected.Length];
            var codes = new Float8E4M3[tokens * hidden];
            var scales = new float[tokens * Formats.Blocks(hidden, 128)];
            Quantizer.QuantizeHidden(caller.Hidden, hidden, format, codes, scales);
            layer.Forward(new ExpertsInput { QuantizedHidden = codes, HiddenScales = scales, TopkIds = ids, TopkWeights = caller.Weights }, actual);
            CudaQueueTests.Same(expected, actual, $"{format} H={hidden}, spans");
            using var queue = new CudaQueue(backend, caller.Stream.Raw);
            using DeviceBuffer deviceCodes = caller.Upload<Float8E4M3>(codes), deviceScales = caller.Upload<float>(scales);
            caller.Route(ids);
            CudaCall call = caller.Call with { Hidden = 0, QuantizedHidden = deviceCodes.Raw, HiddenScales = deviceScales.Raw };
            queue.Forward(layer, call);
            CudaQueueTests.Same(expected, caller.Output<BFloat16>(), $"{format} H={hidden}, pointers");
            Assert.Equal("Give hidden states in BF16 or quantized, not both.",
                Assert.Throws<ArgumentException>(() => queue.Forward(layer, call with { Hidden = caller.Call.Hidden })).Message);
            Assert.Equal("scales of hidden_states is a null pointer; give its address on GPU 0.",
                Assert.Throws<ArgumentException>(() => queue.Forward(layer, call with { HiddenScales = 0 })).Message);
        }
    }

    [Theory]
    [InlineData(256, 21)]
    [InlineData(200, 70)]
    public void RouterWeightsOnTheInputAgreeWithTheReference(int hidden, int tokens)
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, hidden, 128, 1);
        var options = new ExpertsOptions { TopK = 1, RouterWeightOnInput = true };
        using var layer = new FusedExperts(options, weights, backend);
        using var reference = new FusedExperts(options, weights, ExpertsBackends.Reference);
        using var caller = new Caller(backend, layer, tokens);
        int[] ids = RandomLayer.Ids(tokens, 1, 4, 3, dropped: 0.2);
        BFloat16[] ours = caller.WithSpans(ids), expected = new BFloat16[ours.Length];
        reference.Forward(caller.Hidden, ids, caller.Weights, expected);
        double difference = Gpu.Difference(ours, expected);
        Assert.True(difference <= 5e-4, $"H={hidden} T={tokens}: calc_diff {difference:E2}");
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        caller.Route(ids);
        queue.Forward(layer, caller.Call);
        CudaQueueTests.Same(ours, caller.Output<BFloat16>(), "pointers");
    }

    /// <summary>The wide kernels take weighed rows too; MXFP8 rows that the caller quantized are refused in a sentence.</summary>
    [Fact]
    public void WideFormatsTakeRouterWeightsOnTheInput()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.MxFp8, 4, 256, 128, 1);
        var options = new ExpertsOptions { TopK = 1, RouterWeightOnInput = true };
        using var layer = new FusedExperts(options, weights, backend);
        using var reference = new FusedExperts(options, weights, ExpertsBackends.Reference);
        using var caller = new Caller(backend, layer, 9);
        int[] ids = RandomLayer.Ids(9, 1, 4, 3);
        BFloat16[] expected = new BFloat16[9 * 256];
        reference.Forward(caller.Hidden, ids, caller.Weights, expected);
        double difference = Gpu.Difference(caller.WithSpans(ids), expected);
        Assert.True(difference <= 5e-4, $"calc_diff {difference:E2}");
        using var plain = new FusedExperts(new() { TopK = 1 }, weights, backend);
        var codes = new Float8E4M3[256];
        var scales = new ScaleE8M0[8];
        Assert.Contains("for MxFp8 give them in BF16", Assert.Throws<UnsupportedException>(() =>
            plain.Forward(new ExpertsInput { QuantizedHidden = codes, HiddenScalesE8M0 = scales, TopkIds = [0], TopkWeights = [1f] }, new BFloat16[256])).Message);
    }

    /// <summary>A weight of 2 on the input doubles what enters a nonlinear layer: not the same as on the output.</summary>
    [Fact]
    public void RouterWeightsOnTheInputAreNotAppliedTwice()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, 256, 128, 1);
        using var onInput = new FusedExperts(new() { TopK = 1, RouterWeightOnInput = true }, weights, backend);
        using var onOutput = new FusedExperts(new() { TopK = 1 }, weights, backend);
        BFloat16[] x = RandomLayer.Hidden(5, 256, 2), doubled = [.. x.Select(v => BFloat16.FromSingle(2 * v.ToSingle()))];
        BFloat16[] a = new BFloat16[x.Length], b = new BFloat16[x.Length];
        int[] ids = [0, 1, 2, 3, 0];
        onInput.Forward(x, ids, [2, 2, 2, 2, 2], a);
        onOutput.Forward(doubled, ids, [1, 1, 1, 1, 1], b);
        CudaQueueTests.Same(b, a, "twice the input");
    }
}
