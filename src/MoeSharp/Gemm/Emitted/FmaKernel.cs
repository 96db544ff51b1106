using Iced.Intel;

namespace MoeSharp;

/// <summary>Code generated for FP32 multiply-adds, where there are no BF16 dot products. Gives the bits of the managed kernels.</summary>
/// <param name="rowsAreCodes">Rows that 128-block weights are multiplied with are FP8 codes, or in <see cref="TileOrder.Plain"/> any.</param>
/// <param name="any">The kernel for rows that are no codes; without it this one.</param>
internal sealed class FmaKernel(string name, bool isSupported, string what, TileOrder order, bool hasRows, Func<Assembler, ConstantPool, TileOrder, IVectorAssembler> vectors,
    bool rowsAreCodes = true, FmaKernel? any = null) : IGemmKernel
{
    private readonly Dictionary<(WeightFormat, bool), (GeneratedCode Code, int MaxRows)> _code = [];
    private readonly Lock _generate = new();

    public string Name => name;
    public bool IsSupported => isSupported;
    public string Reason => isSupported
        ? $"this machine has {what}"
        : $"this machine or system lacks {what}, or is not x64 Linux, for which this kernel's code is generated";
    public Operand Operand => Operand.F32;
    public TileOrder Order => order;

    public IGemmKernel ForActivations(ActivationFormat activations) => activations == ActivationFormat.Fp8 ? this : any ?? this;

    public TileKernels For(WeightFormat format, bool withNaN)
    {
        (GeneratedCode Code, int MaxRows) made;
        lock (_generate)
        {
            if (!_code.TryGetValue((format, withNaN), out made)) _code.Add((format, withNaN), made = Generate(format, withNaN));
        }
        var kernels = new TileKernels(format, Operand, made.MaxRows, isUnmanaged: true);
        for (int rows = 1; rows <= made.MaxRows; rows++) kernels.Set(rows, made.Code[rows - 1]);
        return kernels;
    }

    public RowKernels RowsFor(ExpertsShape shape, bool hasBiases, int downColumns) =>
        hasRows ? GeneratedRows.For(shape, Operand, hasBiases, downColumns) : default;

    private (GeneratedCode Code, int MaxRows) Generate(WeightFormat format, bool withNaN)
    {
        var code = new GeneratedCode.Builder();
        IVectorAssembler assembler = vectors(code.Assembler, code.Constants, order.Of(format));
        var emitter = new FmaEmitter(code.Assembler, assembler, format, withNaN, rowsAreCodes);
        int maxRows = FmaEmitter.MaxRows(assembler.Registers, format);
        for (int rows = 1; rows <= maxRows; rows++)
        {
            int count = rows;
            code.Add(() => emitter.EmitEntry(count));
        }
        return (code.Load(), maxRows);
    }
}
