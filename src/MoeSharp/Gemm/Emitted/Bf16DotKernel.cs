namespace MoeSharp;

/// <summary>Code generated for AVX512-BF16: E4M3 becomes BF16 by table, in registers, and enters dot products of pairs.</summary>
internal sealed class Bf16DotKernel : IGemmKernel
{
    private readonly GeneratedCode[] _code = new GeneratedCode[(int)WeightFormat.Bf16 + 1];
    private readonly Lock _generate = new();

    public string Name => "avx512-bf16";
    public bool IsSupported => CpuFeatures.Avx512Bf16 && CpuFeatures.Avx512Vbmi;
    public string Reason => IsSupported
        ? "this machine has AVX512-BF16, which multiplies at twice the rate of FP32, and AVX512-VBMI to decode FP8 by table"
        : "this machine or system lacks AVX512-BF16 or AVX512-VBMI, or is not x64 Linux, for which this kernel's code is generated";
    public Operand Operand => Operand.Bf16;
    public TileOrder Order => TileOrder.Pairs;

    public TileKernels For(WeightFormat format, bool withNaN)
    {
        lock (_generate) return (_code[(int)format] ??= Generate(format)).Kernels(format, Operand);
    }

    private static GeneratedCode Generate(WeightFormat format)
    {
        var code = new GeneratedCode.Builder();
        var emitter = new Bf16DotEmitter(code.Assembler, format);
        for (int rows = 1; rows <= Bf16DotEmitter.MaxRows; rows++)
            for (int width = 0; Bf16DotEmitter.Fits(rows, 1 << width); width++)
                code.Entry(rows, width, () => emitter.EmitEntry(rows, 1 << width));
        emitter.EmitTables();
        return code.Load();
    }
}
