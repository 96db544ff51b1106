namespace MoeSharp.Tests;

/// <summary>Weights that the GPU decodes to BF16: MXFP8 under both activation formats, 128-block FP8 and BF16 under BF16 activations, expert biases.</summary>
[Trait("Category", "Cuda")]
public class WideTests
{
    public static TheoryData<WeightFormat, ActivationFormat, int, int, int> Layers
    {
        get
        {
            var layers = new TheoryData<WeightFormat, ActivationFormat, int, int, int>();
            foreach ((WeightFormat format, ActivationFormat activations) in Kinds)
                foreach ((int tokens, int hidden, int intermediate) in new[] { (1, 128, 128), (33, 192, 96), (190, 320, 224), (700, 256, 256) })
                    layers.Add(format, activations, tokens, hidden, intermediate);
            return layers;
        }
    }

    private static (WeightFormat, ActivationFormat)[] Kinds =>
    [
        (WeightFormat.MxFp8, ActivationFormat.Fp8), (WeightFormat.MxFp8, ActivationFormat.Bf16), (WeightFormat.Block128, ActivationFormat.Bf16),
        (WeightFormat.Block128PowerOfTwo, ActivationFormat.Bf16), (WeightFormat.Bf16, ActivationFormat.Bf16),
    ];

    [Theory, MemberData(nameof(Layers))]
    public void LayersAgreeWithTheReference(WeightFormat format, ActivationFormat activations, int tokens, int hidden, int intermediate)
    {
        using CudaBackend backend = Gpu.Open();
        Assert.SkipWhen(Gpu.IsEmulated && tokens > 200, "Too long for the emulator.");
        const int experts = 6, topK = 3;
        Activation[] kinds = Gpu.IsEmulated ? [Activation.SwigluOai()] : [Activation.Silu(), Activation.Silu(2), Activation.SwigluOai(), Activation.SwigluStep(), Activation.GeluTanh()];
        foreach (Activation activation in kinds)
            foreach (bool biases in new[] { false, true })
            {
                using ExpertWeights weights = RandomLayer.Weights(format, experts, hidden, intermediate, 1, biases);
                int[] ids = RandomLayer.Ids(tokens, topK, experts, 3, dropped: 0.2);
                string difference = Difference(backend, weights, new() { TopK = topK, Activation = activation, Activations = activations }, tokens, ids);
                Assert.True(difference == "", $"{format} x {activations}, {activation}, biases {biases}, T={tokens} H={hidden} I={intermediate}: {difference}");
            }
    }

    /// <summary>Scale blocks over gate and up together, up beginning inside one: two passes over H.</summary>
    [Theory]
    [InlineData(7, 128, 192)]
    [InlineData(70, 200, 96)]
    public void ScaleBlocksThatStraddleGateAndUpAgreeWithTheReference(int tokens, int hidden, int intermediate)
    {
        using CudaBackend backend = Gpu.Open();
        const int experts = 2;
        int scaleColumns = Formats.Blocks(hidden, 128), scaleRows = Formats.Blocks(2 * intermediate, 128);
        var random = new Random(1);
        using ExpertWeights weights = ExpertWeights.FromPacked(WeightFormat.Block128, experts, hidden, intermediate,
            Codes(experts * 2 * intermediate * hidden), Scales(experts * scaleRows * scaleColumns), Codes(experts * intermediate * hidden),
            Scales(experts * scaleColumns * Formats.Blocks(intermediate, 128)), PackedScaleRows.Fused);
        Assert.True(weights.HasStraddlingScales);
        int[] ids = RandomLayer.Ids(tokens, 2, experts, 3);
        Assert.Equal("", Difference(backend, weights, new() { TopK = 2, Activations = ActivationFormat.Bf16 }, tokens, ids));

        Float8E4M3[] Codes(int count) => [.. RandomLayer.Normal(random, count, 60).Select(Float8E4M3.FromSingle)];
        float[] Scales(int count) => [.. Enumerable.Range(0, count).Select(_ => 0.002f * (0.5f + random.NextSingle()))];
    }

    /// <summary>Few rows and many (two blocks of weights at a time, every width of products), alone and in a crowd.</summary>
    [Theory]
    [InlineData(WeightFormat.MxFp8, ActivationFormat.Fp8)]
    [InlineData(WeightFormat.MxFp8, ActivationFormat.Bf16)]
    [InlineData(WeightFormat.Block128, ActivationFormat.Bf16)]
    [InlineData(WeightFormat.Bf16, ActivationFormat.Bf16)]
    public void ARowDoesNotDependOnItsBatch(WeightFormat format, ActivationFormat activations)
    {
        using CudaBackend backend = Gpu.Open();
        const int hidden = 256;
        int tokens = Gpu.IsEmulated ? 210 : 900;
        using ExpertWeights weights = RandomLayer.Weights(format, 3, hidden, 192, 1, biases: true);
        using var experts = new FusedExperts(new() { TopK = 2, Activations = activations }, weights, backend);
        BFloat16[] x = RandomLayer.Hidden(tokens, hidden, 2), all = new BFloat16[x.Length], one = new BFloat16[hidden];
        float[] w = RandomLayer.TopkWeights(tokens, 2, 4);
        int[] crowds = Gpu.IsEmulated ? [12, 40, 90, 126, 143, tokens] : [12, 20, 30, 40, 60, 70, 78, 86, 95, 104, 111, 118, 127, 135, 143, 144, 300, tokens];
        foreach (int crowd in crowds)
        {
            int[] ids = [.. Enumerable.Range(0, 2 * tokens).Select(i => i / 2 >= crowd ? -1 : i % 2)];
            experts.Forward(x, ids, w, all);
            foreach (int t in new[] { 0, 9, crowd / 2, crowd - 1 })
            {
                experts.Forward(x.AsSpan(t * hidden, hidden), ids.AsSpan(2 * t, 2), w.AsSpan(2 * t, 2), one);
                Assert.True(one.AsSpan().SequenceEqual(all.AsSpan(t * hidden, hidden)), $"{format} x {activations}: token {t} alone differs from itself among {crowd}");
            }
        }
    }

    /// <summary>All codes under all scales, by the instructions that the GEMMs use, against code times scale rounded to BF16. NaN codes come out as 480
    /// times the scale: rows that have one are made NaN elsewhere.</summary>
    [Fact]
    public void EveryCodeUnderEveryScaleIsDecoded()
    {
        using CudaBackend backend = Gpu.Open();
        using var stream = new CudaStream(backend.Context());
        using var decoded = new DeviceBuffer(backend.Context(), 2 * 256 * 256, "decoded values");
        using (backend.Context().Enter()) backend.Kernels().Wide.Decode.Launch(new WidePrepareArguments { To = decoded.Address }, 256, stream.Raw);
        var values = new BFloat16[256 * 256];
        decoded.Download<BFloat16>(values, stream);
        for (int scale = 0; scale < 256; scale++)
            for (int code = 0; code < 256; code++)
            {
                float value = (code & 0x7F) == 0x7F ? code < 128 ? 480 : -480 : Float8E4M3.FromBits((byte)code).ToSingle();
                BFloat16 expected = BFloat16.FromSingle(value * ScaleE8M0.FromBits((byte)scale).ToSingle()), actual = values[scale * 256 + code];
                bool same = float.IsNaN(expected.ToSingle()) ? float.IsNaN(actual.ToSingle()) : expected.Equals(actual);
                Assert.True(same, $"code 0x{code:X2} under scale byte {scale} is {actual}, not {expected}");
            }
    }

    /// <summary>Scales beyond what one factor can carry, and NaN codes where they are allowed.</summary>
    [Fact]
    public void LargeScalesAndNaNWeightsAgreeWithTheReference()
    {
        using CudaBackend backend = Gpu.Open();
        foreach (WeightFormat format in new[] { WeightFormat.MxFp8, WeightFormat.Block128 })
        {
            using ExpertWeights weights = RandomLayer.Weights(format, 2, 256, 128, 1);
            unsafe
            {
                if (format == WeightFormat.MxFp8)
                {
                    foreach (BlockScaledMatrix up in weights.Up)
                        for (int row = 0; row < 128; row += 3) up.Storage.Scales[row * up.Storage.ScaleRowBytes + row % 8] = (byte)(135 + row % 16);
                }
                else
                {
                    weights.Down[1].Storage.Values[77 * 128 + 5] = 0xFF;
                }
            }
            var options = new ExpertsOptions { TopK = 1, Activations = ActivationFormat.Bf16, AllowNaNWeights = true };
            using var ours = new FusedExperts(options, weights, backend);
            using var reference = new FusedExperts(options, weights, ExpertsBackends.Reference);
            BFloat16[] x = RandomLayer.Hidden(6, 256, 2), a = new BFloat16[x.Length], b = new BFloat16[x.Length];
            float[] w = RandomLayer.TopkWeights(6, 1, 4);
            ours.Forward(x, [0, 1, 0, 1, 1, 0], w, a);
            reference.Forward(x, [0, 1, 0, 1, 1, 0], w, b);
            for (int i = 0; i < a.Length; i++)
                Assert.True(float.IsNaN(a[i].ToSingle()) == float.IsNaN(b[i].ToSingle()), $"{format}: element {i} is {a[i]}, the reference says {b[i]}");
            Assert.Equal(format == WeightFormat.Block128 ? 3 : 0, a.Count(v => float.IsNaN(v.ToSingle())));
            BFloat16[] finiteA = [.. a.Where(v => !float.IsNaN(v.ToSingle()))], finiteB = [.. b.Where(v => !float.IsNaN(v.ToSingle()))];
            Assert.True(Gpu.Difference(finiteA, finiteB) <= 2e-5, $"{format}: calc_diff {Gpu.Difference(finiteA, finiteB):E2}");
        }
    }

    /// <summary>Empty, or how experts one by one, and all elements, differ from the reference backend.</summary>
    private static string Difference(CudaBackend backend, ExpertWeights weights, ExpertsOptions options, int tokens, int[] ids)
    {
        using var ours = new FusedExperts(options, weights, backend);
        using var reference = new FusedExperts(options, weights, ExpertsBackends.Reference);
        int hidden = weights.HiddenSize;
        BFloat16[] x = RandomLayer.Hidden(tokens, hidden, 2), a = new BFloat16[x.Length], b = new BFloat16[x.Length];
        float[] w = RandomLayer.TopkWeights(tokens, options.TopK, 4);
        ours.Forward(x, ids, w, a);
        reference.Forward(x, ids, w, b);
        double most = options.Activations == ActivationFormat.Fp8 ? 5e-4 : 2e-5;
        double all = Gpu.Difference(a, b);
        if (!(all <= most)) return $"calc_diff {all:E2}";
        for (int t = 0; t < tokens; t++)
        {
            ReadOnlySpan<BFloat16> own = a.AsSpan(t * hidden, hidden), other = b.AsSpan(t * hidden, hidden);
            double row = Gpu.Difference(own, other), norm = 0;
            if (!(row <= 4 * most)) return $"calc_diff {row:E2} of token {t}";
            foreach (BFloat16 v in other) norm += (double)v.ToSingle() * v.ToSingle();
            // A last bit of the activation, which exponentials of two libraries may differ in, can be a tie between two FP8 codes, 6 % apart.
            double allowed = (options.Activations == ActivationFormat.Fp8 ? 0.1 : 0.03) * Math.Sqrt(norm / hidden);
            for (int c = 0; c < hidden; c++)
                if (!(Math.Abs(own[c].ToSingle() - other[c].ToSingle()) <= allowed + 0.02 * Math.Abs(other[c].ToSingle())))
                    return $"element [{t}, {c}] is {own[c]}, the reference says {other[c]}";
        }
        return "";
    }
}
