namespace MoeSharp.Tests;

/// <summary>Other ways in: hidden states that the caller quantized, and router weights on the input.</summary>
[Trait("Category", "Cuda")]
public class CudaInputTests
{
    [Theory]
    [InlineData(WeightFormat.Block128, 256, 21)]
    [InlineData(WeightFormat.Block128, 200, 70)] // not whole blocks, nor whole chunks of 16
    [InlineData(WeightFormat.Block128PowerOfTwo, 256, 21)]
    [InlineData(WeightFormat.Block128PowerOfTwo, 200, 70)]
    [InlineData(WeightFormat.MxFp8, 256, 21)]
    [InlineData(WeightFormat.MxFp8, 200, 70)]
    [InlineData(WeightFormat.MxFp8, 77, 3)] // odd, and few enough for one launch if they were BF16
    public void QuantizedInputGivesTheBitsOfBf16(WeightFormat format, int hidden, int tokens)
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(format, 4, hidden, 128, 1);
        using var layer = new FusedExperts(new() { TopK = 2 }, weights, backend);
        using var caller = new Caller(backend, layer, tokens);
        int[] ids = RandomLayer.Ids(tokens, 2, 4, 3, dropped: 0.2);
        BFloat16[] expected = caller.WithSpans(ids), actual = new BFloat16[expected.Length];
        bool mx = format == WeightFormat.MxFp8;
        int groups = tokens * Formats.Blocks(hidden, format.BlockColumns());
        var codes = new Float8E4M3[tokens * hidden];
        float[] scales = new float[mx ? 0 : groups];
        var mxScales = new ScaleE8M0[mx ? groups : 0];
        if (mx) Quantizer.QuantizeHidden(caller.Hidden, hidden, codes, mxScales);
        else Quantizer.QuantizeHidden(caller.Hidden, hidden, format, codes, scales);
        layer.Forward(new ExpertsInput { QuantizedHidden = codes, HiddenScales = scales, HiddenScalesE8M0 = mxScales, TopkIds = ids, TopkWeights = caller.Weights }, actual);
        CudaQueueTests.Same(expected, actual, $"{format} H={hidden}, spans");
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        using DeviceBuffer deviceCodes = caller.Upload<Float8E4M3>(codes), deviceScales = mx ? caller.Upload<ScaleE8M0>(mxScales) : caller.Upload<float>(scales);
        caller.Route(ids);
        CudaCall call = caller.Call with { Hidden = 0, QuantizedHidden = deviceCodes.Raw, HiddenScales = deviceScales.Raw };
        queue.Forward(layer, call);
        CudaQueueTests.Same(expected, caller.Output<BFloat16>(), $"{format} H={hidden}, pointers");
        Assert.Equal("Give hidden states in BF16 or quantized, not both.",
            Assert.Throws<ArgumentException>(() => queue.Forward(layer, call with { Hidden = caller.Call.Hidden })).Message);
        Assert.Equal("scales of hidden_states is a null pointer; give its address on GPU 0.",
            Assert.Throws<ArgumentException>(() => queue.Forward(layer, call with { HiddenScales = 0 })).Message);
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

    /// <summary>Scales larger than a group's codes need, codes without a bit, NaN codes: what the reference makes of them.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AnyMxInputAgreesWithTheReference(bool withNaN)
    {
        const int hidden = 256, tokens = 40;
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.MxFp8, 4, hidden, 128, 1);
        using var ours = new FusedExperts(new() { TopK = 2 }, weights, backend);
        using var reference = new FusedExperts(new() { TopK = 2 }, weights, ExpertsBackends.Reference);
        var random = new Random(5);
        var codes = new Float8E4M3[tokens * hidden];
        var scales = new ScaleE8M0[tokens * hidden / 32];
        for (int i = 0; i < codes.Length; i++) codes[i] = Float8E4M3.FromBits((byte)(i / 32 % 9 == 0 ? 0 : random.Next(i / 32 % 3 == 0 ? 0x20 : 0x7F) | random.Next(2) << 7));
        for (int i = 0; i < scales.Length; i++) scales[i] = ScaleE8M0.FromBits((byte)random.Next(112, 124));
        if (withNaN) codes[3 * hidden + 17] = Float8E4M3.FromBits(0x7F);
        int[] ids = RandomLayer.Ids(tokens, 2, 4, 3);
        float[] topkWeights = RandomLayer.TopkWeights(tokens, 2, 4);
        BFloat16[] actual = new BFloat16[codes.Length], expected = new BFloat16[codes.Length];
        foreach ((FusedExperts layer, BFloat16[] output) in new[] { (ours, actual), (reference, expected) })
            layer.Forward(new ExpertsInput { QuantizedHidden = codes, HiddenScalesE8M0 = scales, TopkIds = ids, TopkWeights = topkWeights }, output);
        for (int t = 0; t < tokens; t++)
        {
            BFloat16[] a = actual[(t * hidden)..((t + 1) * hidden)], e = expected[(t * hidden)..((t + 1) * hidden)];
            if (withNaN && t == 3) Assert.All(a.Concat(e), value => Assert.True(float.IsNaN(value.ToSingle()), $"token {t}: {value}"));
            else Assert.True(Gpu.Difference(a, e) <= 5e-4, $"token {t}: calc_diff {Gpu.Difference(a, e):E2}");
        }
    }

    /// <summary>The wide kernels take weighed rows too.</summary>
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
