namespace MoeSharp.Tests;

/// <summary>Every backend against an oracle in float64 that shares no arithmetic with the library.</summary>
public class FusedExpertsGridTests(ITestOutputHelper report)
{
    /// <summary>Formats with their activations; FP8 first.</summary>
    private static readonly (WeightFormat Format, ActivationFormat Activations)[] Schemes =
    [
        (WeightFormat.Block128, ActivationFormat.Fp8), (WeightFormat.Block128PowerOfTwo, ActivationFormat.Fp8), (WeightFormat.MxFp8, ActivationFormat.Fp8),
        (WeightFormat.Block128, ActivationFormat.Bf16), (WeightFormat.Block128PowerOfTwo, ActivationFormat.Bf16), (WeightFormat.MxFp8, ActivationFormat.Bf16),
        (WeightFormat.Bf16, ActivationFormat.Bf16),
    ];

    public static TheoryData<Case> Cases()
    {
        var cases = new TheoryData<Case>();
        foreach ((WeightFormat format, ActivationFormat activations) in Schemes)
        {
            cases.Add(new Case(format, activations, T: 1, H: 128, I: 128, E: 2, K: 1));
            cases.Add(new Case(format, activations, T: 2, H: 256, I: 64, E: 4, K: 4));
            cases.Add(new Case(format, activations, T: 9, H: 192, I: 96, E: 5, K: 3));
            cases.Add(new Case(format, activations, T: 5, H: 640, I: 1408, E: 2, K: 2));
            cases.Add(new Case(format, activations, T: 127, H: 130, I: 70, E: 8, K: 2));
            cases.Add(new Case(format, activations, T: 3, H: 7, I: 3, E: 3, K: 2));
            cases.Add(new Case(format, activations, T: 3, H: 64, I: 33, E: 896, K: 16));
            cases.Add(new Case(format, activations, T: 40, H: 128, I: 192, E: 256, K: 8));
            cases.Add(new Case(format, activations, T: 11, H: 160, I: 512, E: 3, K: 1, RouterWeightOnInput: true));
            cases.Add(new Case(format, activations, T: 13, H: 288, I: 160, E: 4, K: 2, Biases: true));
        }
        foreach (Activation activation in new[] { Activation.Silu(1.5f), Activation.SwigluOai(), Activation.SwigluOai(1.1f, 0.5f, 1.7f, true), Activation.SwigluStep(0.9f), Activation.GeluTanh() })
            foreach ((WeightFormat format, ActivationFormat activations) in Schemes)
                foreach (RoundingMode rounding in Enum.GetValues<RoundingMode>())
                    cases.Add(new Case(format, activations, T: 6, H: 256, I: 160, E: 4, K: 2, Activation: activation, Rounding: rounding));
        // vLLM's grids, tokens and experts scaled down so that no case exceeds 1e10 operations.
        foreach ((int i, int h) in new[] { (768, 128), (768, 512), (1024, 1024), (128, 128), (128, 7168), (4608, 128), (512, 512), (384, 3584) })
            foreach (int k in i * h < 300_000 ? new[] { 1, 2, 6 } : [2])
                cases.Add(new Case(WeightFormat.Block128, ActivationFormat.Fp8, T: 4, H: h, I: i, E: k + 1, K: k));
        cases.Add(new Case(WeightFormat.Block128, ActivationFormat.Fp8, T: 2, H: 1024, I: 4096, E: 1, K: 1));
        cases.Add(new Case(WeightFormat.Block128, ActivationFormat.Fp8, T: 2, H: 7168, I: 1024, E: 1, K: 1));
        return cases;
    }

    [Theory, MemberData(nameof(Cases))]
    public void AgreesWithFloat64(Case c)
    {
        using ExpertWeights weights = RandomLayer.Weights(c.Format, c.E, c.H, c.I, seed: c.H + c.I, c.Biases);
        BFloat16[] hidden = RandomLayer.Hidden(c.T, c.H, seed: 5);
        int[] ids = RandomLayer.Ids(c.T, c.K, c.E, seed: 6, dropped: c.K > 1 ? 0.1 : 0);
        float[] topkWeights = RandomLayer.TopkWeights(c.T, c.K, seed: 7);
        float[]? expected = null;
        foreach (IExpertsBackend backend in ExpertsBackends.All)
        {
            using var experts = new FusedExperts(c.Options, weights, backend);
            var output = new float[c.T * c.H];
            experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = topkWeights }, output);
            expected ??= Oracle.Layer(experts.Shape, weights, hidden, ids, topkWeights);
            Accuracy accuracy = Accuracy.Of(output, expected);
            report.WriteLine($"{backend.Name}: {accuracy}");
            Assert.True(accuracy.CalcDiff <= c.Bound, $"{c} on {backend.Name}: {accuracy}, the bound is {c.Bound}");
        }
    }

    /// <summary>Full sizes of the seed's grids: all tokens through the fast backends, the oracle on some rows. Run with --explicit on.</summary>
    [Theory(Explicit = true), Trait("Category", "Large")]
    [InlineData(1024, 768, 128, 32, 6)]
    [InlineData(2048, 768, 512, 32, 2)]
    [InlineData(512, 1024, 1024, 32, 6)]
    [InlineData(4096, 4096, 1024, 32, 2)]
    [InlineData(192, 4608, 7168, 8, 6)]
    [InlineData(1335, 4608, 512, 16, 6)]
    [InlineData(2048, 4608, 7168, 2, 2)]
    public void AgreesWithFloat64AtFullSize(int tokens, int intermediate, int hidden, int experts, int topK)
    {
        var c = new Case(WeightFormat.Block128, ActivationFormat.Fp8, tokens, hidden, intermediate, experts, topK);
        using ExpertWeights weights = RandomLayer.Weights(c.Format, c.E, c.H, c.I, seed: 1);
        BFloat16[] x = RandomLayer.Hidden(c.T, c.H, seed: 5);
        int[] ids = RandomLayer.Ids(c.T, c.K, c.E, seed: 6);
        float[] topkWeights = RandomLayer.TopkWeights(c.T, c.K, seed: 7);
        foreach (IExpertsBackend backend in ExpertsBackends.All)
        {
            using var layer = new FusedExperts(c.Options, weights, backend);
            int stride = backend == ExpertsBackends.Reference ? 1 : tokens / 3; // the scalar backend computes the sampled rows only
            int[] rows = [0, tokens / 3, 2 * (tokens / 3)];
            BFloat16[] sampled = [.. rows.SelectMany(r => x[(r * c.H)..((r + 1) * c.H)])];
            int[] sampledIds = [.. rows.SelectMany(r => ids[(r * c.K)..((r + 1) * c.K)])];
            float[] sampledWeights = [.. rows.SelectMany(r => topkWeights[(r * c.K)..((r + 1) * c.K)])];
            bool all = stride > 1;
            var output = new float[all ? x.Length : sampled.Length];
            layer.Forward(all
                ? new ExpertsInput { Hidden = x, TopkIds = ids, TopkWeights = topkWeights }
                : new ExpertsInput { Hidden = sampled, TopkIds = sampledIds, TopkWeights = sampledWeights }, output);
            float[] actual = [.. Enumerable.Range(0, 3).SelectMany(n => output[(n * stride * c.H)..((n * stride + 1) * c.H)])];
            Accuracy accuracy = Accuracy.Of(actual, Oracle.Layer(layer.Shape, weights, sampled, sampledIds, sampledWeights));
            report.WriteLine($"{c} on {backend.Name}: {accuracy}");
            Assert.True(accuracy.CalcDiff <= c.Bound, $"{c} on {backend.Name}: {accuracy}");
        }
    }

    public sealed record Case(
        WeightFormat Format, ActivationFormat Activations, int T, int H, int I, int E, int K, Activation? Activation = null, RoundingMode? Rounding = null,
        bool RouterWeightOnInput = false, bool Biases = false)
    {
        internal ExpertsOptions Options => new()
        {
            TopK = K,
            Activations = Activations,
            Activation = Activation ?? MoeSharp.Activation.Silu(),
            Rounding = Rounding,
            RouterWeightOnInput = RouterWeightOnInput,
        };

        /// <summary>Narrower where no second quantization can flip a code.</summary>
        internal double Bound => Activations == ActivationFormat.Bf16 || Format == WeightFormat.MxFp8 ? 2e-5 : 5e-4;
    }
}
