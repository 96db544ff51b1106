using BenchmarkDotNet.Attributes;

namespace MoeSharp.Benchmarks;

/// <summary>
/// A kernel alone on one thread: some rows times eight K blocks of one tile, all in the first cache. 8,192 operations per row and block; beside the peak of a
/// thread (<c>moesharp info --threads 1</c>) this says what the instructions reach when memory does not matter.
/// </summary>
public unsafe class TileKernelRate
{
    private const int Blocks = 8;
    private NativeBuffer _packed = null!, _operands = null!, _sums = null!, _decoded = null!;
    private TileKernels _kernels;

    /// <summary>Names in the registry.</summary>
    [ParamsSource(nameof(Kernels))]
    public string Kernel { get; set; } = "";

    /// <summary>Rows of a call.</summary>
    [Params(1, 4, 12, 16)]
    public int Rows { get; set; }

    /// <summary>Those that this machine can run.</summary>
    public static IEnumerable<string> Kernels => GemmKernels.All.Where(kernel => kernel.IsSupported).Select(kernel => kernel.Name);

    [GlobalSetup]
    public void Fill()
    {
        IGemmKernel kernel = GemmKernels.All.Single(k => k.Name == Kernel);
        _kernels = kernel.For(WeightFormat.Block128, withNaN: false);
        _packed = new NativeBuffer(Blocks * _kernels.BlockBytes);
        _operands = new NativeBuffer(Blocks * 16 * _kernels.OperandRowBytes); // AMX reads tiles of 16 rows
        _sums = new NativeBuffer(16 * TileBlock.Columns * sizeof(float));
        _decoded = new NativeBuffer(_kernels.DecodedBytes);
        byte one = kernel.Order == TileOrder.Quads ? QuadCode.Of(0x38) : (byte)0x38; // code 0x38 is 1; in the place of a scale it is some positive number
        new Span<byte>(_packed.Pointer, (int)_packed.Bytes).Fill(one);
        for (int i = 0; i < _operands.Bytes; i += 2) *(ushort*)(_operands.Pointer + i) = kernel.Operand == Operand.Bf16 || i % 4 == 2 ? (ushort)0x3F80 : (ushort)0;
    }

    [GlobalCleanup]
    public void Free()
    {
        foreach (NativeBuffer buffer in (NativeBuffer[])[_packed, _operands, _sums, _decoded]) buffer.Dispose();
    }

    [Benchmark(OperationsPerInvoke = Blocks)]
    public void Multiply()
    {
        var block = new TileBlock { Sums = (float*)_sums.Pointer, Depth = TileBlock.MaxDepth };
        var run = new BlockRun(_packed.Pointer, Blocks, _kernels.BlockBytes, _packed.Pointer);
        RowsAhead none = default;
        _kernels.Begin(ref block, _decoded.Pointer, run);
        for (int k = 0; k < Blocks; k++, run.Advance())
        {
            block.Operands = _operands.Pointer + k * 16 * _kernels.OperandRowBytes;
            _kernels.Multiply(ref block, Rows, run, ref none, share: 0);
        }
        _kernels.End();
    }
}
