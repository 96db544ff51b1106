namespace MoeSharp;

/// <summary>Code generated for AMX-BF16: weights are decoded once, a block ahead, and multiplied with 32 rows at a time, in tiles of 16 x 16.</summary>
internal sealed unsafe class AmxKernel : IGemmKernel
{
    private readonly Dictionary<(WeightFormat, bool), GeneratedCode> _code = [];
    private readonly Lock _generate = new();

    public string Name => "amx-bf16";
    public bool IsSupported => CpuFeatures.AmxBf16;
    public string Reason => IsSupported
        ? "this machine has AMX-BF16, which multiplies tiles of 16 x 16 x 32"
        : "this machine or system lacks AMX-BF16, or is not x64 Linux, for which this kernel's code is generated";
    public Operand Operand => Operand.Bf16;
    public TileOrder Order => TileOrder.Quads;

    public TileKernels For(WeightFormat format, bool withNaN)
    {
        GeneratedCode? code;
        lock (_generate)
        {
            if (!_code.TryGetValue((format, withNaN), out code)) _code.Add((format, withNaN), code = Generate(format, withNaN));
        }
        return new TileKernels(format, Operand, AmxEmitter.MostRows, isUnmanaged: true)
        {
            Begins = (delegate* unmanaged<TileBlock*, void>)code[1],
            Ends = (delegate* unmanaged<void>)code[2],
        }.With(0, code[0]);
    }

    public RowKernels RowsFor(ExpertsShape shape, bool hasBiases, int downColumns) => GeneratedRows.For(shape, hasBiases, downColumns);

    private static GeneratedCode Generate(WeightFormat format, bool withNaN)
    {
        var code = new GeneratedCode.Builder();
        var emitter = new AmxEmitter(code.Assembler, code.Constants, new(code.Assembler), format, withNaN);
        code.Add(emitter.EmitBlock);
        code.Add(emitter.EmitBegin);
        code.Add(emitter.EmitEnd);
        emitter.EmitTables();
        return code.Load();
    }
}
