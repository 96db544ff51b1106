namespace MoeSharp;

/// <summary>Code generated for AMX-BF16: a block's weights are decoded once, then multiplied with 32 rows at a time, in tiles of 16 x 16.</summary>
internal sealed class AmxBlockKernel : IGemmKernel
{
    private readonly GeneratedCode?[] _code = new GeneratedCode?[(int)WeightFormat.Bf16 + 1];
    private readonly Lock _generate = new();

    public string Name => "amx-bf16-blocks";
    public bool IsSupported => CpuFeatures.AmxBf16;
    public string Reason => IsSupported
        ? "this machine has AMX-BF16, which multiplies tiles of 16 x 16 x 32"
        : "this machine or system lacks AMX-BF16, or is not x64 Linux, for which this kernel's code is generated";
    public Operand Operand => Operand.Bf16;
    public TileOrder Order => TileOrder.Pairs;

    public TileKernels For(WeightFormat format, bool withNaN)
    {
        GeneratedCode code;
        lock (_generate) code = _code[(int)format] ??= Generate(format);
        var kernels = new TileKernels(format, Operand, WorkItem.MaxRows, isUnmanaged: true) { AnyRows = true };
        kernels.Set(0, code[0]);
        return kernels;
    }

    public RowKernels RowsFor(ExpertsShape shape, bool hasBiases, int downColumns) => GeneratedRows.For(shape, Operand, hasBiases, downColumns);

    private static GeneratedCode Generate(WeightFormat format)
    {
        var code = new GeneratedCode.Builder();
        var emitter = new AmxBlockEmitter(code.Assembler, code.Constants, format);
        code.Add(emitter.EmitEntry);
        emitter.EmitTables();
        return code.Load();
    }
}
