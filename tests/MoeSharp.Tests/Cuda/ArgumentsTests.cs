using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace MoeSharp.Tests;

/// <summary>The host's structs against what kernels/include/arguments.cuh asserts of its own.</summary>
public class ArgumentsTests
{
    [Fact]
    public void SizesAreThoseOfTheKernels()
    {
        string asserted = File.ReadAllText(Repository.PathOf("kernels/include/arguments.cuh"));
        foreach ((string name, int size) in new (string, int)[]
        {
            ("ActivationArguments", Unsafe.SizeOf<ActivationArguments>()), ("ExpertTiles", Unsafe.SizeOf<ExpertTiles>()),
            ("QuantizeArguments", Unsafe.SizeOf<QuantizeArguments>()), ("GemmArguments", Unsafe.SizeOf<GemmArguments>()), ("GemmsArguments", Unsafe.SizeOf<GemmsArguments>()),
            ("CombineArguments", Unsafe.SizeOf<CombineArguments>()), ("PrepareArguments", Unsafe.SizeOf<PrepareArguments>()),
            ("SharedGateArguments", Unsafe.SizeOf<SharedGateArguments>()), ("WeighArguments", Unsafe.SizeOf<WeighArguments>()), ("CodesArguments", Unsafe.SizeOf<CodesArguments>()),
            ("WidenArguments", Unsafe.SizeOf<WidenArguments>()),
        })
            Assert.True(asserted.Contains($"sizeof({name}) == {size}", StringComparison.Ordinal), $"{name} has {size} bytes here; the kernels assert another size.");
    }

    [Fact]
    public void OffsetsAreThoseOfTheKernels()
    {
        string asserted = File.ReadAllText(Repository.PathOf("kernels/include/arguments.cuh"));
        foreach ((Type type, string field, string twin) in new[]
        {
            (typeof(GemmArguments), nameof(GemmArguments.Weights), "weights"), (typeof(GemmArguments), nameof(GemmArguments.Results), "results"),
            (typeof(GemmArguments), nameof(GemmArguments.TileCount), "tile_count"), (typeof(GemmArguments), nameof(GemmArguments.KBlocks), "k_blocks"),
            (typeof(GemmArguments), nameof(GemmArguments.Activation), "activation"), (typeof(QuantizeArguments), nameof(QuantizeArguments.TileCount), "tile_count"),
            (typeof(QuantizeArguments), nameof(QuantizeArguments.Tokens), "tokens"), (typeof(GemmsArguments), nameof(GemmsArguments.Down), "down"),
            (typeof(GemmsArguments), nameof(GemmsArguments.Units), "units"),
            (typeof(CombineArguments), nameof(CombineArguments.Output), "output"), (typeof(CombineArguments), nameof(CombineArguments.OutputF32), "output_f32"),
            (typeof(PrepareArguments), nameof(PrepareArguments.NaN), "nan"), (typeof(PrepareArguments), nameof(PrepareArguments.KBlocks), "k_blocks"),
            (typeof(ActivationArguments), nameof(ActivationArguments.Divide), "divide"), (typeof(SharedGateArguments), nameof(SharedGateArguments.HiddenSize), "hidden_size"),
            (typeof(WeighArguments), nameof(WeighArguments.HiddenSize), "hidden_size"), (typeof(CodesArguments), nameof(CodesArguments.Capacity), "capacity"),
            (typeof(WidenArguments), nameof(WidenArguments.HiddenSize), "hidden_size"),
        })
        {
            int offset = (int)Marshal.OffsetOf(type, field);
            Assert.True(asserted.Contains($"offset_of({type.Name}, {twin}) == {offset}", StringComparison.Ordinal),
                $"{type.Name}.{field} lies at {offset} here; the kernels assert another offset of {twin}.");
        }
    }

    [Fact]
    public void WideStructsAreThoseOfTheKernels()
    {
        string asserted = File.ReadAllText(Repository.PathOf("kernels/include/wide_arguments.cuh"));
        foreach ((string name, int size) in new (string, int)[]
        {
            (nameof(WideTiles), Unsafe.SizeOf<WideTiles>()), (nameof(WidePermuteArguments), Unsafe.SizeOf<WidePermuteArguments>()),
            (nameof(WideGemmArguments), Unsafe.SizeOf<WideGemmArguments>()), (nameof(WideGemmsArguments), Unsafe.SizeOf<WideGemmsArguments>()), (nameof(WidePrepareArguments), Unsafe.SizeOf<WidePrepareArguments>()),
        })
            Assert.True(asserted.Contains($"sizeof({name}) == {size}", StringComparison.Ordinal), $"{name} has {size} bytes here; the kernels assert another size.");
        foreach ((Type type, string field, string twin) in new[]
        {
            (typeof(WidePermuteArguments), nameof(WidePermuteArguments.Tokens), "tokens"), (typeof(WidePermuteArguments), nameof(WidePermuteArguments.TileRows), "tile_rows"),
            (typeof(WideGemmArguments), nameof(WideGemmArguments.KBlocks), "k_blocks"), (typeof(WideGemmArguments), nameof(WideGemmArguments.Activation), "activation"),
            (typeof(WideGemmsArguments), nameof(WideGemmsArguments.Down), "down"), (typeof(WideGemmsArguments), nameof(WideGemmsArguments.Units), "units"),
            (typeof(WidePrepareArguments), nameof(WidePrepareArguments.Rows), "rows"), (typeof(WidePrepareArguments), nameof(WidePrepareArguments.Format), "format"),
        })
        {
            int offset = (int)Marshal.OffsetOf(type, field);
            Assert.True(asserted.Contains($"offset_of({type.Name}, {twin}) == {offset}", StringComparison.Ordinal),
                $"{type.Name}.{field} lies at {offset} here; the kernels assert another offset of {twin}.");
        }
    }

    [Fact]
    public void StructAndSizesOfFewTokensAreThoseOfTheKernel()
    {
        string asserted = File.ReadAllText(Repository.PathOf("kernels/include/few_arguments.cuh"));
        Assert.Contains($"sizeof(FewArguments) == {Unsafe.SizeOf<FewArguments>()}", asserted);
        foreach ((string field, string twin) in new[]
        {
            (nameof(FewArguments.Experts), "experts"), (nameof(FewArguments.RingSlots), "ring_slots"), (nameof(FewArguments.Halves), "halves"),
            (nameof(FewArguments.Activation), "activation"), (nameof(FewArguments.Combine), "combine"),
            (nameof(FewArguments.Quantize), "quantize"), (nameof(FewArguments.GateUpBiases), "gateup_biases"),
        })
            Assert.Contains($"offset_of(FewArguments, {twin}) == {Marshal.OffsetOf<FewArguments>(field)}", asserted);
        Assert.Contains($"constexpr int few_tokens = {FewPlan.Tokens};", asserted);
        Assert.Contains($"constexpr int few_slots = {FewPlan.Slots};", asserted);
        Assert.Contains($"constexpr int few_columns = {FewPlan.Columns};", asserted);
        Assert.Contains($"constexpr int few_counter_bytes = {FewPlan.CounterBytes};", asserted);
        Assert.Contains($"constexpr int few_handoff_header = {Handoff.HeaderBytes};", asserted);
    }

    [Fact]
    public void ActivationsBecomeArguments()
    {
        ActivationArguments step = From(Activation.SwigluStep()), oai = From(Activation.SwigluOai()), silu = From(Activation.Silu(10.03f));
        Assert.Equal((1, 1, 7f), (step.Kind, step.Divide, step.Limit));
        Assert.Equal((3, 0, 1.702f, 1f), (oai.Kind, oai.Divide, oai.Alpha, oai.Beta));
        Assert.Equal((3, 10f, 1f, -0f), (silu.Kind, silu.Limit, silu.Alpha, silu.Beta)); // the limit is rounded to BF16
        Assert.Equal(0, From(Activation.Silu()).Kind);
        Assert.Equal(float.PositiveInfinity, From(Activation.GeluTanh()).Limit);
    }

    private static ActivationArguments From(Activation activation)
    {
        using ExpertWeights weights = RandomLayer.Zeros(WeightFormat.Block128, 2, 128, 128);
        return ActivationArguments.From(ExpertsShape.From(new() { TopK = 1, Activation = activation }, weights));
    }
}
