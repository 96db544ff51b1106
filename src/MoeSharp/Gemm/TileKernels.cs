using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>Entry points for 1 to <see cref="MaxRows"/> rows; unmanaged, so that a job can carry it.</summary>
internal unsafe struct TileKernels
{
    /// <summary>Rows that the largest table of entries has room for.</summary>
    public const int MostRows = 14;
    private Entries _entries, _panelEntries;
    private readonly bool _isUnmanaged, _widens;

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
        _widens = operand == Operand.F32;
        OperandRowBytes = _widens ? TileBlock.MaxDepth * sizeof(float) : TileBlock.StoredRowBytes;
        MaxRows = maxRows;
        _isUnmanaged = isUnmanaged;
    }

    /// <summary>Most rows that one entry does.</summary>
    public int MaxRows { get; }
    /// <summary>Bytes of scales at the start of a packed block.</summary>
    public int ScaleBytes { get; }
    /// <summary>Bytes of a packed block: scales, then values.</summary>
    public int BlockBytes { get; }
    /// <summary>Bytes from one row of operands to the next.</summary>
    public int OperandRowBytes { get; }
    /// <summary>What the codec looks codes up in; null where it does not.</summary>
    public byte* Tables { get; init; }
    /// <summary>Makes FP32 of BF16 values, a multiple of 32 of them; null leaves that to C#.</summary>
    public delegate* unmanaged<void*, void*, nint, void> Widens { get; init; }

    /// <summary>Makes a thread ready for blocks, and decodes the first; null where there is nothing to do.</summary>
    public delegate* unmanaged<TileBlock*, void> Begins { get; init; }
    /// <summary>Undoes that.</summary>
    public delegate* unmanaged<void> Ends { get; init; }

    /// <summary>Decodes a block to FP32, for more rows than <see cref="MaxRows"/>; null where each entry decodes.</summary>
    public delegate* unmanaged<TileBlock*, void> DecodesPanel { get; init; }
    /// <summary>Most rows that one entry multiplies with such a panel.</summary>
    public int MaxPanelRows { get; init; }

    /// <summary>Bytes of memory of a thread, aligned to 64, for decoded blocks.</summary>
    public int DecodedBytes => Begins != null ? AmxPanel.Bytes : DecodesPanel != null ? FmaEmitter.PanelBytes : 0;

    /// <summary>Bytes of memory of a thread for each row of operands that do not lie in memory as they are multiplied; 0 where they do.</summary>
    public int WidenedRowBytes => _widens ? OperandRowBytes : 0;

    /// <summary>Operands as they wait in memory, BF16, which holds all of them exactly, to operands as they are multiplied.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void Take(BFloat16* stored, byte* operands, int count)
    {
        if (!_widens) Unsafe.CopyBlockUnaligned(operands, stored, (uint)count * sizeof(ushort));
        else if (Widens != null && count % TileBlock.Columns == 0) Widens(stored, operands, count);
        else Conversions.ToSingle(new ReadOnlySpan<BFloat16>(stored, count), new Span<float>(operands, count));
    }

    /// <summary>Sets the entry for this many rows.</summary>
    public void Set(int rows, nint entry) => _entries[rows] = entry;

    /// <summary>Sets the entry for this many rows and a panel.</summary>
    public void SetPanel(int rows, nint entry) => _panelEntries[rows] = entry;

    /// <summary>The same with an entry.</summary>
    public TileKernels With(int rows, nint entry)
    {
        Set(rows, entry);
        return this;
    }

    /// <summary>To be called before a thread multiplies the first block of a run; <see cref="End"/> after the last.</summary>
    /// <param name="decoded">Memory of the thread: <see cref="DecodedBytes"/>.</param>
    /// <param name="run">The first block has been asked for already.</param>
    public readonly void Begin(ref TileBlock block, byte* decoded, in BlockRun run)
    {
        block.Decoded = decoded;
        if (Begins == null) return;
        block.TileRows = 0;
        block.Next = run.Current + ScaleBytes;
        block.AskFor(run, BlockRun.Distance);
        fixed (TileBlock* first = &block) Begins(first);
    }

    public readonly void End()
    {
        if (Ends != null) Ends();
    }

    /// <summary>Multiplies rows with the tiles of a K block, one after the other; each asks for its share of the rows that come next. Sums of a tile lie behind those of the one before.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void MultiplyTiles(ref TileBlock block, int rows, int tiles, BlockRun run, RowsAhead ahead)
    {
        int share = (ahead.Count + tiles - 1) / tiles;
        for (int tile = 0; tile < tiles; tile++, run.Advance(), block.Sums += rows * TileBlock.Columns) Multiply(ref block, rows, run, ref ahead, share);
    }

    /// <summary>Does any number of rows, in even portions: 15 are 8 + 7.</summary>
    /// <param name="run">Stands at the block; those after it are fetched meanwhile, each portion and decoding to a panel asking for its share, since a core has few requests to memory under way at a time.</param>
    /// <param name="ahead">Rows to be fetched as well.</param>
    /// <param name="share">How many of them.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void Multiply(ref TileBlock current, int rows, in BlockRun run, ref RowsAhead ahead, int share)
    {
        if (Begins != null)
        {
            MultiplyDecoded(ref current, rows, run);
            ahead.Ask(share, toSecond: true);
            return;
        }
        TileBlock block = current;
        bool fromPanel = rows > MaxRows && DecodesPanel != null;
        int most = fromPanel ? MaxPanelRows : MaxRows, portions = (rows + most - 1) / most, portionShare = (share + portions - 1) / portions;
        block.Tables = Tables;
        block.Scales = run.Current;
        block.Weights = run.Current + ScaleBytes;
        block.AskFor(run, BlockRun.Distance);
        block.AheadStep = (BlockBytes - ScaleBytes) / (TileBlock.Steps * (fromPanel ? portions + 1 : portions));
        if (fromPanel)
        {
            DecodesPanel(&block);
            block.Ahead += block.AheadStep * TileBlock.Steps;
        }
        for (; portions > 0; portions--)
        {
            int portion = (rows + portions - 1) / portions;
            nint entry = fromPanel ? _panelEntries[portion] : _entries[portion];
            block.RowCount = portion;
            if (_isUnmanaged) ((delegate* unmanaged<TileBlock*, void>)entry)(&block);
            else ((delegate*<TileBlock*, void>)entry)(&block);
            block.Operands += portion * OperandRowBytes;
            block.Sums += portion * TileBlock.Columns;
            if (block.RowScales != null) block.RowScales += portion;
            block.Ahead += block.AheadStep * TileBlock.Steps;
            ahead.Ask(portionShare);
            rows -= portion;
        }
    }

    /// <summary>The same for a kernel that decodes a block ahead.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void MultiplyDecoded(ref TileBlock block, int rows, in BlockRun run)
    {
        block.Scales = run.Current;
        block.Weights = run.Current + ScaleBytes;
        block.Next = run.At(1) + ScaleBytes;
        block.AskFor(run, 1 + BlockRun.Distance);
        block.RowCount = rows;
        fixed (TileBlock* pinned = &block) ((delegate* unmanaged<TileBlock*, void>)_entries[0])(pinned);
    }
}
