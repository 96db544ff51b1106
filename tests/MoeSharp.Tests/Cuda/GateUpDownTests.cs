using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>Both GEMMs in one launch, where blocks wait for what others hand on, against two: the same bits, on poisoned workspaces.</summary>
[Trait("Category", "Cuda")]
public class GateUpDownTests
{
    public static TheoryData<WeightFormat, ActivationFormat> Kinds => new()
    {
        { WeightFormat.Block128, ActivationFormat.Fp8 }, { WeightFormat.MxFp8, ActivationFormat.Fp8 }, { WeightFormat.Block128, ActivationFormat.Bf16 }, { WeightFormat.Bf16, ActivationFormat.Bf16 },
    };

    [Theory, MemberData(nameof(Kinds))]
    public void OneLaunchGivesTheBitsOfTwo(WeightFormat format, ActivationFormat activations)
    {
        foreach ((int tokens, int experts, int topK, int hidden, int intermediate) in new[]
        {
            (9, 4, 2, 256, 128), (33, 3, 3, 192, 96), (70, 5, 2, 128, 384), (100, 4, 1, 384, 200), // rows of an expert: few, on the N side, on the M side; padded sizes, odd numbers of blocks
        })
        {
            using var at = new FewLayer(new() { TopK = topK, Activations = activations }, experts, hidden, intermediate, tokens, format);
            foreach ((string name, int[] ids) in FewLayer.Routings(tokens, topK, experts)) at.CompareGemms(ids, $"T={tokens} E={experts} K={topK} H={hidden} I={intermediate}, {name}");
        }
    }

    /// <summary>Several tiles of rows for an expert.</summary>
    [Theory, MemberData(nameof(Kinds))]
    public void TilesOfACrowdedExpertGiveTheBitsOfTwo(WeightFormat format, ActivationFormat activations)
    {
        using var at = new FewLayer(new() { TopK = 1, Activations = activations }, 6, 256, 256, 360, format);
        at.CompareGemms([.. Enumerable.Range(0, 360).Select(t => t % 20 == 0 ? 1 : 4)], "a crowd and a few");
    }

    /// <summary>An expert for each width of products, those among them that only GEMMs of their own have.</summary>
    [Theory, MemberData(nameof(Kinds))]
    public void EveryWidthGivesTheBitsOfTwo(WeightFormat format, ActivationFormat activations)
    {
        foreach (int less in new[] { 0, 7 }) // rows of a tile, and the fewest that take as many
        {
            int[] ids = [.. Enumerable.Range(1, 12).SelectMany(expert => Enumerable.Repeat(expert - 1, 8 * expert - less))];
            new Random(less).Shuffle(ids);
            using var at = new FewLayer(new() { TopK = 1, Activations = activations }, 12, 256, 128, ids.Length, format);
            at.CompareGemms(ids, $"1 to 12 times 8 rows, less {less}");
        }
    }

    [Theory, MemberData(nameof(Kinds))]
    public void EveryActivationAndRoundingGivesTheBitsOfTwo(WeightFormat format, ActivationFormat activations)
    {
        foreach (Activation activation in new[] { Activation.Silu(7f), Activation.SwigluStep(), Activation.GeluTanh(), Activation.SwigluOai() })
            foreach (RoundingMode rounding in new[] { RoundingMode.Bf16Staged, RoundingMode.Fp32Once })
            {
                using var at = new FewLayer(new() { TopK = 2, Activation = activation, Rounding = rounding, Activations = activations }, 4, 128, 128, 40, format);
                at.CompareGemms(RandomLayer.Ids(40, 2, 4, 3, dropped: 0.4), $"{activation.Kind}, {rounding}");
            }
    }

    [Fact]
    public void BiasesGiveTheBitsOfTwo()
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Bf16, 5, 272, 192, 1, biases: true);
        using var at = new FewLayer(new() { TopK = 2, Activation = Activation.SwigluOai(), Activations = ActivationFormat.Bf16 }, weights, 40);
        foreach ((string name, int[] ids) in FewLayer.Routings(40, 2, 5)) at.CompareGemms(ids, name);
    }

    [Theory, MemberData(nameof(Kinds))]
    public void AGraphReplaysUnderOtherRoutings(WeightFormat format, ActivationFormat activations)
    {
        using var at = new FewLayer(new() { TopK = 2, Activations = activations }, 4, 256, 128, 30, format);
        at.CompareReplays(30, 2, 4, launches: 3);
    }

    /// <summary>Sizes of real layers, many routings.</summary>
    [Theory, MemberData(nameof(Kinds))]
    public void LargeLayersGiveTheBitsOfTwo(WeightFormat format, ActivationFormat activations)
    {
        Assert.SkipWhen(Gpu.IsEmulated, "Too long for the emulator.");
        using CudaBackend backend = Gpu.Open();
        using var tables = new RandomTables(new BenchKernels(backend.Kernels()));
        foreach (BenchShape shape in new BenchShape[] { new("test", 64, 8, 2048, 768), new("test", 16, 8, 7168, 2048) })
            FewLayer.CompareLarge(backend, tables, shape, format, activations, [9, 32, 100], routings: 6);
    }
}

/// <summary>The same on a machine without a GPU, with clusters that run some at a time or one after the other.</summary>
[Collection(nameof(Emulator))]
public class EmulatedGateUpDownTests
{
    private readonly GateUpDownTests _tests = new();

    public EmulatedGateUpDownTests() => Emulator.Start();

    [Theory]
    [InlineData(2, 4, WeightFormat.Block128, ActivationFormat.Fp8)]
    [InlineData(4, 9, WeightFormat.Block128, ActivationFormat.Fp8)] // a grid that does not fit at once
    [InlineData(4, 132, WeightFormat.Block128, ActivationFormat.Fp8)] // as many as an H200 has: most clusters' first units lie far behind the last
    [InlineData(4, 132, WeightFormat.MxFp8, ActivationFormat.Fp8)]
    [InlineData(1, 3, WeightFormat.MxFp8, ActivationFormat.Fp8)]
    [InlineData(4, 9, WeightFormat.Block128, ActivationFormat.Bf16)]
    public void OneLaunchGivesTheBitsOfTwo(int resident, int multiprocessors, WeightFormat format, ActivationFormat activations)
    {
        Emulator.Set("resident", resident);
        Emulator.Set("multiprocessors", multiprocessors);
        _tests.OneLaunchGivesTheBitsOfTwo(format, activations);
    }

    [Theory, MemberData(nameof(GateUpDownTests.Kinds), MemberType = typeof(GateUpDownTests))]
    public void EveryWidthGivesTheBitsOfTwo(WeightFormat format, ActivationFormat activations) => _tests.EveryWidthGivesTheBitsOfTwo(format, activations);

    [Theory, MemberData(nameof(GateUpDownTests.Kinds), MemberType = typeof(GateUpDownTests))]
    public void TilesOfACrowdedExpertGiveTheBitsOfTwo(WeightFormat format, ActivationFormat activations) => _tests.TilesOfACrowdedExpertGiveTheBitsOfTwo(format, activations);

    [Fact]
    public void EveryActivationAndRoundingGivesTheBitsOfTwo() => _tests.EveryActivationAndRoundingGivesTheBitsOfTwo(WeightFormat.Block128, ActivationFormat.Fp8);

    [Fact]
    public void BiasesGiveTheBitsOfTwo() => _tests.BiasesGiveTheBitsOfTwo();

    [Fact]
    public void AGraphReplaysUnderOtherRoutings() => _tests.AGraphReplaysUnderOtherRoutings(WeightFormat.Block128, ActivationFormat.Fp8);
}
