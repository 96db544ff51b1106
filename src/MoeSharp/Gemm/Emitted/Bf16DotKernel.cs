namespace MoeSharp;

/// <summary>Code generated for AVX512-BF16: E4M3 becomes BF16 by table, in registers, and enters dot products of pairs.</summary>
internal sealed class Bf16DotKernel : IGemmKernel
{
    private readonly GeneratedCode?[] _code = new GeneratedCode?[(int)WeightFormat.Bf16 + 1];
    private readonly Lock _generate = new();

    public string Name => "avx512-bf16";
    public bool IsSupported => CpuFeatures.Avx512Bf16 && CpuFeatures.Avx512Vbmi;
    public string Reason => IsSupported
        ? CpuFeatures.FastBf16Dots
            ? "this machine has AVX512-BF16, which multiplies at twice the rate of FP32, and AVX512-VBMI to decode FP8 by table"
            : "this machine has AVX512-BF16, which multiplies at half the rate of FP32 on its processor, and AVX512-VBMI to decode FP8 by table"
        : "this machine or system lacks AVX512-BF16 or AVX512-VBMI, or is not x64 Linux, for which this kernel's code is generated";
    public Operand Operand => Operand.Bf16;
    public TileOrder Order => TileOrder.Pairs;

    public TileKernels For(WeightFormat format, bool withNaN)
    {
        GeneratedCode code;
        lock (_generate) code = _code[(int)format] ??= Generate(format);
        var kernels = new TileKernels(format, Operand, Bf16DotEmitter.MaxRows, isUnmanaged: true);
        for (int rows = 1; rows <= Bf16DotEmitter.MaxRows; rows++) kernels.Set(rows, code[rows - 1]);
        return kernels;
    }

    public RowKernels RowsFor(ExpertsShape shape, bool hasBiases, int downColumns) => GeneratedRows.For(shape, hasBiases, downColumns);

    private static GeneratedCode Generate(WeightFormat format)
    {
        var code = new GeneratedCode.Builder();
        var emitter = new Bf16DotEmitter(code.Assembler, code.Constants, format);
        for (int rows = 1; rows <= Bf16DotEmitter.MaxRows; rows++)
        {
            int count = rows;
            code.Add(() => emitter.EmitEntry(count));
        }
        emitter.EmitTables();
        return code.Load();
    }
}
