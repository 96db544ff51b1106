using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>Few tokens in one launch on weights that are decoded to BF16, against the same layer in four: the same bits.</summary>
[Trait("Category", "Cuda")]
public class WideFewTokensTests
{
    private static readonly (WeightFormat Format, ActivationFormat Activations)[] s_kinds =
    [
        (WeightFormat.MxFp8, ActivationFormat.Fp8), (WeightFormat.MxFp8, ActivationFormat.Bf16), (WeightFormat.Block128, ActivationFormat.Bf16),
        (WeightFormat.Block128PowerOfTwo, ActivationFormat.Bf16), (WeightFormat.Bf16, ActivationFormat.Bf16),
    ];

    public static TheoryData<WeightFormat, ActivationFormat> Kinds
    {
        get
        {
            var kinds = new TheoryData<WeightFormat, ActivationFormat>();
            foreach ((WeightFormat format, ActivationFormat activations) in s_kinds) kinds.Add(format, activations);
            return kinds;
        }
    }

    [Theory]
    [InlineData(1, 4, 2, 256, 128)]
    [InlineData(3, 4, 2, 192, 96)] // padded
    [InlineData(8, 6, 3, 128, 384)] // more intermediate than hidden rows
    [InlineData(8, 3, 3, 400, 200)] // groups of 32 that end within
    [InlineData(5, 12, 10, 256, 128)]
    [InlineData(7, 18, 16, 128, 128)]
    [InlineData(2, 2, 1, 3584, 128)] // units longer than the ring
    public void OneLaunchGivesTheBitsOfFour(int tokens, int experts, int topK, int hidden, int intermediate)
    {
        foreach ((WeightFormat format, ActivationFormat activations) in s_kinds)
        {
            using var at = new FewLayer(new() { TopK = topK, Activations = activations }, experts, hidden, intermediate, tokens, format);
            foreach ((string name, int[] ids) in FewLayer.Routings(tokens, topK, experts)) at.Compare(ids, $"{format} x {activations}, {name}");
        }
    }

    [Theory, MemberData(nameof(Kinds))]
    public void EveryActivationAndRoundingGivesTheBitsOfFour(WeightFormat format, ActivationFormat activations)
    {
        foreach (Activation activation in new[] { Activation.Silu(), Activation.Silu(7f), Activation.SwigluStep(), Activation.GeluTanh(), Activation.SwigluOai() })
            foreach (RoundingMode rounding in new[] { RoundingMode.Bf16Staged, RoundingMode.Fp32Once })
            {
                var options = new ExpertsOptions { TopK = 2, Activation = activation, Rounding = rounding, Activations = activations };
                using var at = new FewLayer(options, 4, 256, 256, 4, format);
                at.Compare(RandomLayer.Ids(4, 2, 4, 3), $"{activation.Kind}, {rounding}");
            }
    }

    [Theory, MemberData(nameof(Kinds))]
    public void BiasesGiveTheBitsOfFour(WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights weights = RandomLayer.Weights(format, 5, 272, 192, 1, biases: true);
        using var at = new FewLayer(new() { TopK = 2, Activation = Activation.SwigluOai(), Activations = activations }, weights, 6);
        foreach ((string name, int[] ids) in FewLayer.Routings(6, 2, 5)) at.Compare(ids, name);
    }

    /// <summary>Scales that take two factors, weights that are NaN, hidden states that are huge, tiny, infinite and NaN.</summary>
    [Theory, MemberData(nameof(Kinds))]
    public void RareValuesGiveTheBitsOfFour(WeightFormat format, ActivationFormat activations)
    {
        const int tokens = 5, hidden = 256;
        foreach (bool large in format == WeightFormat.MxFp8 ? new[] { false, true } : [false])
        {
            using ExpertWeights weights = RandomLayer.Weights(format, 3, hidden, 128, 1);
            unsafe
            {
                BlockScaledMatrix up = weights.Up[1], down = weights.Down[2];
                if (format == WeightFormat.Bf16) ((ushort*)down.Storage.Values)[77 * 128 + 5] = 0x7FC0;
                else down.Storage.Values[77 * 128 + 5] = 0xFF;
                for (int row = 0; large && row < 128; row += 3) up.Storage.Scales[row * up.Storage.ScaleRowBytes + row % 8] = (byte)(135 + row % 16);
            }
            BFloat16[] x = RandomLayer.Hidden(tokens, hidden, 2);
            for (int i = 0; i < 32; i++) (x[i], x[hidden + 32 + i]) = (BFloat16.FromSingle(1e-39f * i), BFloat16.FromSingle(1e36f * (i - 16)));
            (x[2 * hidden + 70], x[3 * hidden + 200]) = (BFloat16.FromSingle(float.PositiveInfinity), BFloat16.FromSingle(float.NaN));
            using var at = new FewLayer(new() { TopK = 2, Activations = activations, AllowNaNWeights = true }, weights, tokens, hidden: x);
            foreach ((string name, int[] ids) in FewLayer.Routings(tokens, 2, 3)) at.Compare(ids, $"{name}, large scales: {large}");
        }
    }

    [Theory, MemberData(nameof(Kinds))]
    public void FewTokensAgreeWithTheReference(WeightFormat format, ActivationFormat activations)
    {
        const int experts = 6, topK = 3, hidden = 272, intermediate = 224;
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(format, experts, hidden, intermediate, 1, biases: true);
        var options = new ExpertsOptions { TopK = topK, Activations = activations };
        using var ours = new FusedExperts(options, weights, backend);
        using var reference = new FusedExperts(options, weights, ExpertsBackends.Reference);
        for (int tokens = 1; tokens <= 8; tokens++)
        {
            int[] ids = RandomLayer.Ids(tokens, topK, experts, tokens, dropped: 0.2);
            BFloat16[] x = RandomLayer.Hidden(tokens, hidden, 2), a = new BFloat16[x.Length], b = new BFloat16[x.Length];
            float[] w = RandomLayer.TopkWeights(tokens, topK, 4);
            ours.Forward(x, ids, w, a);
            reference.Forward(x, ids, w, b);
            double difference = Gpu.Difference(a, b);
            Assert.True(difference <= (activations == ActivationFormat.Fp8 ? 5e-4 : 2e-5), $"T={tokens}: calc_diff {difference:E2}");
        }
    }

    [Theory, MemberData(nameof(Kinds))]
    public void AnExpertMapPicksTheLocalExperts(WeightFormat format, ActivationFormat activations)
    {
        int[] map = [.. Enumerable.Range(0, 12).Select(g => g % 3 == 1 ? g / 3 : -1)];
        using var at = new FewLayer(new() { TopK = 2, GlobalExperts = 12, Activations = activations }, 4, 256, 128, 7, format, map);
        at.Compare(RandomLayer.Ids(7, 2, 12, 3), "mapped");
        at.Compare([.. Enumerable.Repeat(0, 14)], "all elsewhere");
        at.Compare([.. Enumerable.Range(0, 14).Select(i => i - 1)], "ids that no map has");
    }

    [Theory, MemberData(nameof(Kinds))]
    public void OutputsOfFp32AndWithoutWeightsGiveTheBitsOfFour(WeightFormat format, ActivationFormat activations)
    {
        using var at = new FewLayer(new() { TopK = 2, Activations = activations }, 4, 256, 128, 5, format);
        int[] ids = RandomLayer.Ids(5, 2, 4, 3, dropped: 0.3);
        at.Compare(ids, "FP32", isF32: true);
        at.Compare(ids, "ones", weighted: false);
    }

    [Theory, MemberData(nameof(Kinds))]
    public void AGraphOfOneLaunchReplaysUnderOtherRoutings(WeightFormat format, ActivationFormat activations)
    {
        using var at = new FewLayer(new() { TopK = 2, Activations = activations }, 4, 256, 128, 6, format);
        at.CompareReplays(6, 2, 4);
    }

    /// <summary>What cannot be done in one launch, is done in three, and in four where steps are checked.</summary>
    [Theory]
    [InlineData(9, 2, 256, false)]
    [InlineData(2, 65, 256, false)]
    [InlineData(2, 2, 264, false)]
    [InlineData(2, 2, 256, true)]
    public void OtherCallsTakeMoreLaunches(int tokens, int topK, int hidden, bool checkSteps)
    {
        using var at = new FewLayer(new() { TopK = topK }, topK, hidden, 128, tokens, WeightFormat.MxFp8, checkSteps: checkSteps);
        using CudaGraph graph = at.Capture(fourLaunches: false);
        Assert.Equal(checkSteps ? 4 : 3, graph.Nodes);
    }

    /// <summary>Sizes of real layers, every number of tokens, many routings.</summary>
    [Theory]
    [InlineData(16, 8, 2048, 768)]
    [InlineData(12, 8, 7168, 2048)]
    [InlineData(16, 10, 3072, 1536)]
    public void LargeLayersGiveTheBitsOfFour(int experts, int topK, int hidden, int intermediate)
    {
        Assert.SkipWhen(Gpu.IsEmulated, "Too long for the emulator.");
        using CudaBackend backend = Gpu.Open();
        using var tables = new RandomTables(new BenchKernels(backend.Kernels()));
        foreach ((WeightFormat format, ActivationFormat activations) in s_kinds)
            FewLayer.CompareLarge(backend, tables, new("test", experts, topK, hidden, intermediate), format, activations);
    }
}

/// <summary>The same on a machine without a GPU, with blocks that run some at a time or one after the other.</summary>
[Collection(nameof(Emulator))]
public class EmulatedWideFewTokensTests
{
    private readonly WideFewTokensTests _tests = new();

    public EmulatedWideFewTokensTests() => Emulator.Start();

    [Theory]
    [InlineData(1, 4)]
    [InlineData(2, 3)]
    [InlineData(4, 9)] // a grid that does not fit at once
    public void OneLaunchGivesTheBitsOfFour(int resident, int multiprocessors)
    {
        Emulator.Set("resident", resident);
        Emulator.Set("multiprocessors", multiprocessors);
        _tests.OneLaunchGivesTheBitsOfFour(1, 4, 2, 256, 128);
        _tests.OneLaunchGivesTheBitsOfFour(3, 4, 2, 192, 96);
    }

    /// <summary>A warpgroup gets its unit while copies of another's, into the same slots, are still under way.</summary>
    [Fact]
    public void UnitsLongerThanTheRingGiveTheBitsOfFour()
    {
        Emulator.Set("multiprocessors", 2);
        _tests.OneLaunchGivesTheBitsOfFour(2, 2, 1, 3584, 128);
    }

    [Fact]
    public void RareValuesGiveTheBitsOfFour() => _tests.RareValuesGiveTheBitsOfFour(WeightFormat.MxFp8, ActivationFormat.Fp8);

    [Fact]
    public void BiasesGiveTheBitsOfFour() => _tests.BiasesGiveTheBitsOfFour(WeightFormat.Block128, ActivationFormat.Bf16);

    [Fact]
    public void AGraphOfOneLaunchReplaysUnderOtherRoutings() => _tests.AGraphOfOneLaunchReplaysUnderOtherRoutings(WeightFormat.MxFp8, ActivationFormat.Bf16);

    [Theory]
    [InlineData(9, 2, 256, false)]
    [InlineData(2, 65, 256, false)]
    [InlineData(2, 2, 264, false)]
    [InlineData(2, 2, 256, true)]
    public void OtherCallsTakeMoreLaunches(int tokens, int topK, int hidden, bool checkSteps) => _tests.OtherCallsTakeMoreLaunches(tokens, topK, hidden, checkSteps);
}
