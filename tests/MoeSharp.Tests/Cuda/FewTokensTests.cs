using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>Few tokens in one launch against the same layer in four: the same bits, on poisoned workspaces, again and again with the same counters.</summary>
[Trait("Category", "Cuda")]
public class FewTokensTests
{
    [Theory]
    [InlineData(1, 4, 2, 256, 128)]
    [InlineData(3, 4, 2, 192, 96)] // padded
    [InlineData(8, 6, 3, 128, 384)] // more intermediate than hidden rows
    [InlineData(8, 3, 3, 400, 200)]
    [InlineData(5, 12, 10, 256, 128)]
    [InlineData(2, 2, 1, 3584, 128)] // units longer than the ring
    public void OneLaunchGivesTheBitsOfFour(int tokens, int experts, int topK, int hidden, int intermediate)
    {
        using var at = new FewLayer(new() { TopK = topK }, experts, hidden, intermediate, tokens);
        foreach ((string name, int[] ids) in FewLayer.Routings(tokens, topK, experts)) at.Compare(ids, name);
    }

    [Theory]
    [InlineData(WeightFormat.Block128, RoundingMode.Bf16Staged)]
    [InlineData(WeightFormat.Block128PowerOfTwo, RoundingMode.Fp32Once)]
    public void EveryActivationAndRoundingGivesTheBitsOfFour(WeightFormat format, RoundingMode rounding)
    {
        foreach (Activation activation in new[] { Activation.Silu(), Activation.Silu(7f), Activation.SwigluStep(), Activation.GeluTanh(), Activation.SwigluOai() })
        {
            using var at = new FewLayer(new() { TopK = 2, Activation = activation, Rounding = rounding }, 4, 256, 256, 4, format);
            at.Compare(RandomLayer.Ids(4, 2, 4, 3), $"{activation.Kind}, {format}, {rounding}");
        }
    }

    [Fact]
    public void AnExpertMapPicksTheLocalExperts()
    {
        int[] map = [.. Enumerable.Range(0, 12).Select(g => g % 3 == 1 ? g / 3 : -1)];
        using var at = new FewLayer(new() { TopK = 2, GlobalExperts = 12 }, 4, 256, 128, 7, map: map);
        at.Compare(RandomLayer.Ids(7, 2, 12, 3), "mapped");
        at.Compare([.. Enumerable.Repeat(0, 14)], "all elsewhere");
        at.Compare([.. Enumerable.Range(0, 14).Select(i => i - 1)], "ids that no map has");
    }

    [Fact]
    public void OutputsOfFp32AndWithoutWeightsGiveTheBitsOfFour()
    {
        using var at = new FewLayer(new() { TopK = 2 }, 4, 256, 128, 5);
        int[] ids = RandomLayer.Ids(5, 2, 4, 3, dropped: 0.3);
        at.Compare(ids, "FP32", isF32: true);
        at.Compare(ids, "ones", weighted: false);
    }

    [Fact]
    public void AGraphOfOneLaunchReplaysUnderOtherRoutings()
    {
        using var at = new FewLayer(new() { TopK = 2 }, 4, 256, 128, 6);
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
        using var at = new FewLayer(new() { TopK = topK }, topK, hidden, 128, tokens, checkSteps: checkSteps);
        using CudaGraph graph = at.Capture(fourLaunches: false);
        Assert.Equal(checkSteps ? 4 : 3, graph.Nodes);
    }

    /// <summary>Two layers on two streams, many calls under way at once: neither takes the other's multiprocessors for good, and counters stay apart.</summary>
    [Fact]
    public void QueuesOfTwoStreamsDoNotWaitForEachOther()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, 256, 128, 1);
        using var layer = new FusedExperts(new() { TopK = 2 }, weights, backend);
        using Caller first = new(backend, layer, 8), second = new(backend, layer, 3);
        using CudaQueue firstQueue = new(backend, first.Stream.Raw), secondQueue = new(backend, second.Stream.Raw);
        int[] ids = RandomLayer.Ids(8, 2, 4, 3), others = RandomLayer.Ids(3, 2, 4, 5);
        BFloat16[] expected = first.WithSpans(ids), expectedOthers = second.WithSpans(others);
        first.Route(ids);
        second.Route(others);
        for (int i = 0; i < (Gpu.IsEmulated ? 4 : 2000); i++)
        {
            firstQueue.Forward(layer, first.Call);
            secondQueue.Forward(layer, second.Call);
        }
        CudaQueueTests.Same(expected, first.Output<BFloat16>(), "first stream");
        CudaQueueTests.Same(expectedOthers, second.Output<BFloat16>(), "second stream");
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
        FewLayer.CompareLarge(backend, tables, new("test", experts, topK, hidden, intermediate), WeightFormat.Block128, ActivationFormat.Fp8);
    }
}

/// <summary>The same on a machine without a GPU. Its blocks run some at a time, or one after the other, which is when a block that waits for one that has not begun would never end.</summary>
[Collection(nameof(Emulator))]
public class EmulatedFewTokensTests
{
    private readonly FewTokensTests _tests = new();

    public EmulatedFewTokensTests() => Emulator.Start();

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
        _tests.OneLaunchGivesTheBitsOfFour(8, 6, 3, 128, 384);
    }

    /// <summary>A warpgroup gets its unit while copies of another's, into the same slots, are still under way.</summary>
    [Fact]
    public void UnitsLongerThanTheRingGiveTheBitsOfFour()
    {
        Emulator.Set("multiprocessors", 2);
        _tests.OneLaunchGivesTheBitsOfFour(2, 2, 1, 3584, 128);
    }

    [Fact]
    public void EveryActivationGivesTheBitsOfFour() => _tests.EveryActivationAndRoundingGivesTheBitsOfFour(WeightFormat.Block128PowerOfTwo, RoundingMode.Fp32Once);

    [Fact]
    public void AnExpertMapPicksTheLocalExperts() => _tests.AnExpertMapPicksTheLocalExperts();

    [Fact]
    public void OutputsOfFp32AndWithoutWeightsGiveTheBitsOfFour() => _tests.OutputsOfFp32AndWithoutWeightsGiveTheBitsOfFour();

    [Fact]
    public void AGraphOfOneLaunchReplaysUnderOtherRoutings() => _tests.AGraphOfOneLaunchReplaysUnderOtherRoutings();

    [Fact]
    public void QueuesOfTwoStreamsDoNotWaitForEachOther() => _tests.QueuesOfTwoStreamsDoNotWaitForEachOther();

    [Theory]
    [InlineData(9, 2, 256, false)]
    [InlineData(2, 65, 256, false)]
    [InlineData(2, 2, 264, false)]
    [InlineData(2, 2, 256, true)]
    public void OtherCallsTakeMoreLaunches(int tokens, int topK, int hidden, bool checkSteps) => _tests.OtherCallsTakeMoreLaunches(tokens, topK, hidden, checkSteps);
}
