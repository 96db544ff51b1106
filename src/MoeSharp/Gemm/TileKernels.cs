using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>Entry points for 1 to <see cref="MaxRows"/> rows; unmanaged, so that a job can carry it.</summary>
internal unsafe struct TileKernels
{
    /// <summary>Rows that the largest table of entries has room for.</summary>
    public const int MostRows = 14;
    private Entries _entries;
    private readonly bool _isUnmanaged;

    [InlineArray(MostRows + 1)]
    private struct Entries
    {
        private nint _first;
    }

    /// <param name="isUnmanaged">Whether entries follow the system's calling convention or .NET's.</param>
    public TileKernels(WeightFormat format, Operand operand, int maxRows, bool isUnmanaged)
    {
        ScaleBytes = TileBlock.ScaleBytesOf(format);
        BlockBytes = TileBlock.BytesOf(format);
        OperandRowBytes = TileBlock.MaxDepth * (operand == Operand.F32 ? sizeof(float) : sizeof(ushort));
        MaxRows = maxRows;
        _isUnmanaged = isUnmanaged;
    }

    /// <summary>Most rows that one entry does.</summary>
    public int MaxRows { get; }
    /// <summary>Entry 0 does any number of rows up to the most.</summary>
    public bool AnyRows { get; init; }
    /// <summary>Bytes of scales at the start of a packed block.</summary>
    public int ScaleBytes { get; }
    /// <summary>Bytes of a packed block: scales, then values.</summary>
    public int BlockBytes { get; }
    /// <summary>Bytes from one row of operands to the next.</summary>
    public int OperandRowBytes { get; }
    /// <summary>What the codec looks codes up in; null where it does not.</summary>
    public byte* Tables { get; init; }

    /// <summary>Sets the entry for this many rows.</summary>
    public void Set(int rows, nint entry) => _entries[rows] = entry;

    /// <summary>Does any number of rows, in even portions: 15 are 8 + 7.</summary>
    /// <param name="packed">The block: scales, then values.</param>
    /// <param name="next">The block that will be needed next: it is fetched meanwhile, each portion asking for its share, since a core has few requests to memory under way at a time.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void Multiply(TileBlock block, byte* packed, int rows, byte* next)
    {
        int portions = (rows + MaxRows - 1) / MaxRows;
        block.Tables = Tables;
        block.Scales = packed;
        block.Weights = packed + ScaleBytes;
        block.Ahead = next;
        block.AheadStep = (BlockBytes - ScaleBytes) / (TileBlock.Steps * portions);
        for (; portions > 0; portions--)
        {
            int portion = (rows + portions - 1) / portions;
            nint entry = _entries[AnyRows ? 0 : portion];
            block.RowCount = portion;
            if (_isUnmanaged) ((delegate* unmanaged<TileBlock*, void>)entry)(&block);
            else ((delegate*<TileBlock*, void>)entry)(&block);
            block.Operands += portion * OperandRowBytes;
            block.Sums += portion * block.SumStride;
            if (block.RowScales != null) block.RowScales += portion;
            block.Ahead += block.AheadStep * TileBlock.Steps;
            rows -= portion;
        }
    }
}
