using Iced.Intel;

namespace MoeSharp;

/// <summary>Code generated for FP32 multiply-adds, where there are no BF16 dot products or those are slower. Gives the bits of the managed kernels.</summary>
/// <param name="hasPanel">More rows than one entry takes are multiplied with a block that was decoded once.</param>
/// <param name="rowsAreCodes">Rows that 128-block weights are multiplied with are FP8 codes, or in <see cref="TileOrder.Plain"/> any.</param>
/// <param name="any">The kernel for rows that are no codes; without it this one.</param>
internal sealed unsafe class FmaKernel(string name, bool isSupported, string what, TileOrder order, bool hasRows, bool hasPanel, Func<Assembler, ConstantPool, TileOrder, IVectorAssembler> vectors,
    bool rowsAreCodes = true, FmaKernel? any = null) : IGemmKernel
{
    /// <summary>Rows up to which an entry that decodes is as fast as decoding to memory and then multiplying.</summary>
    private const int MostWithoutPanel = 8;
    private readonly Dictionary<(WeightFormat, bool), (GeneratedCode Code, TileKernels Kernels)> _made = []; // kernels point into the code
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
        lock (_generate)
        {
            if (!_made.TryGetValue((format, withNaN), out (GeneratedCode Code, TileKernels Kernels) made)) _made.Add((format, withNaN), made = Generate(format, withNaN));
            return made.Kernels;
        }
    }

    public RowKernels RowsFor(ExpertsShape shape, bool hasBiases, int downColumns) =>
        hasRows ? GeneratedRows.For(shape, hasBiases, downColumns) : default;

    private (GeneratedCode Code, TileKernels Kernels) Generate(WeightFormat format, bool withNaN)
    {
        var builder = new GeneratedCode.Builder();
        IVectorAssembler assembler = vectors(builder.Assembler, builder.Constants, order.Of(format));
        var emitter = new FmaEmitter(builder.Assembler, assembler, format, withNaN, rowsAreCodes);
        int maxRows = FmaEmitter.MaxRows(assembler, format), panelRows = hasPanel ? FmaEmitter.MaxPanelRows(assembler) : 0, fewestPanelRows = Math.Max(1, (panelRows + 1) / 2); // even portions have no fewer
        if (hasPanel) maxRows = Math.Min(maxRows, MostWithoutPanel);
        for (int rows = 1; rows <= maxRows; rows++) Add(rows, emitter.EmitEntry);
        for (int rows = fewestPanelRows; rows <= panelRows; rows++) Add(rows, emitter.EmitPanelEntry);
        builder.Add(emitter.EmitWiden);
        if (hasPanel) builder.Add(emitter.EmitDecode);
        assembler.EmitTables();
        GeneratedCode code = builder.Load();
        int entry = 0;
        var kernels = new TileKernels(format, Operand, maxRows, isUnmanaged: true) { MaxPanelRows = panelRows };
        for (int rows = 1; rows <= maxRows; rows++) kernels.Set(rows, code[entry++]);
        for (int rows = fewestPanelRows; rows <= panelRows; rows++) kernels.SetPanel(rows, code[entry++]);
        kernels = kernels with { Widens = (delegate* unmanaged<void*, void*, nint, void>)code[entry++] };
        if (hasPanel) kernels = kernels with { DecodesPanel = (delegate* unmanaged<TileBlock*, void>)code[entry] };
        return (code, kernels);

        void Add(int rows, Action<int> emit) => builder.Add(() => emit(rows));
    }
}
