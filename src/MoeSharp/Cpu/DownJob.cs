using System.Numerics;
using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>
/// Steps 6 and 7, Down and Combine, fused: a task computes a chunk of the hidden columns for all rows of all experts, then sums each token's rows in
/// slot order. Only one chunk of unsummed rows exists per thread. A thread without a task multiplies items for others. T tokens, H hidden, S = T*K rows.
/// </summary>
internal unsafe struct DownJob : IWorkerJob
{
    private const int Depth = TileBlock.MaxDepth;

    public TileKernels Kernels;
    public RowKernels RowKernels;
    public PackedPointer Weights;
    public bool HasScales;
    public WorkItem* Items;
    public int ItemCount;
    /// <summary>[T, K]; -1 where dropped.</summary>
    public int* RowOfSlot;
    public int Tokens, TopK;
    /// <summary>H.</summary>
    public int Hidden;
    /// <summary>S.</summary>
    public int Rows;
    /// <summary>[⌈I/128⌉, S, 128] operands.</summary>
    public BFloat16* Activated;
    /// <summary>[⌈I/128⌉, S].</summary>
    public float* ActivatedScales;
    /// <summary>[E, H]; null without.</summary>
    public float* Bias;
    /// <summary>[T, K]; null means all 1.</summary>
    public float* RouterWeights;
    /// <summary>[threads], zeros at first.</summary>
    public SharedItems* Shared;
    /// <summary>Threads that may take part.</summary>
    public int Threads;
    /// <summary>[threads, <see cref="ScratchBytes"/>].</summary>
    public byte* Scratch;
    /// <summary>Rows of the largest item.</summary>
    public int ItemRows;
    /// <summary>[T, H], or null.</summary>
    public BFloat16* Output;
    /// <summary>[T, H], or null.</summary>
    public float* OutputF32;

    private readonly int ChunkColumns => Weights.TilesPerChunk * TileBlock.Columns;

    /// <summary>Bytes of scratch for one thread: decoded blocks, an item's operands of a block where kernels want others than lie in memory, its sums, then all BF16 rows of a chunk.</summary>
    public static long ScratchBytes(int itemRows, long rows, int chunkColumns, in TileKernels kernels) =>
        kernels.DecodedBytes + itemRows * (long)kernels.WidenedRowBytes + chunkColumns * (itemRows * (long)sizeof(float) + rows * sizeof(ushort));

    public readonly void Work(ref TeamTasks tasks, int thread)
    {
        for (int chunk; (chunk = tasks.Take()) != TeamTasks.None;)
        {
            Shared[thread].Begin(chunk);
            MultiplyItems(chunk, owner: thread, thread);
            Shared[thread].Wait(ItemCount);
            Combine(chunk, RoundedOf(thread));
        }
        Help(thread);
    }

    /// <summary>Multiplies items of other threads' chunks, as long as there are any: else the last chunks would leave most threads without work.</summary>
    private readonly void Help(int thread)
    {
        for (int other = 1; other < Threads; other++)
        {
            int owner = (thread + other) % Threads, chunk = Shared[owner].Task;
            if (chunk >= 0) MultiplyItems(chunk, owner, thread);
        }
    }

    /// <summary>The first part of a thread's scratch: decoded blocks; an item's operands lie behind them.</summary>
    private readonly byte* DecodedOf(int thread) => Scratch + thread * (nint)ScratchBytes(ItemRows, Rows, ChunkColumns, Kernels);

    /// <summary>[columns of a chunk / 32, rows of an item, 32].</summary>
    private readonly float* SumsOf(int thread) => (float*)(DecodedOf(thread) + Kernels.DecodedBytes + ItemRows * Kernels.WidenedRowBytes);

    /// <summary>[S, columns of a chunk].</summary>
    private readonly BFloat16* RoundedOf(int thread) => (BFloat16*)(SumsOf(thread) + ItemRows * ChunkColumns);

    /// <summary>Multiplies and rounds items of the owner's chunk until all are taken.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void MultiplyItems(int chunk, int owner, int thread)
    {
        ref SharedItems shared = ref Shared[owner];
        int i = shared.Take(chunk, ItemCount);
        if (i == SharedItems.None) return;
        byte* decoded = DecodedOf(thread), operands = decoded + Kernels.DecodedBytes;
        float* sums = SumsOf(thread);
        BFloat16* rounded = RoundedOf(owner);
        var block = new TileBlock();
        byte* weights = Weights.Chunk(Items[i].Expert, chunk, out int tiles);
        Prefetch.Bytes(weights, Kernels.BlockBytes);
        Kernels.Begin(ref block, decoded, new BlockRun(weights, Weights.Blocks * tiles, Kernels.BlockBytes, following: null));
        while (i != SharedItems.None)
        {
            WorkItem item = Items[i];
            i = Multiply(item, chunk, ref shared, ref block, operands, sums);
            Round(item, chunk, sums, rounded + (nint)item.FirstRow * ChunkColumns);
            shared.End();
        }
        Kernels.End();
    }

    /// <summary>Multiplies an item. Returns the next, which is taken as late as its blocks and rows are asked for, since others may take it until then.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly int Multiply(WorkItem item, int chunk, ref SharedItems shared, ref TileBlock block, byte* operands, float* sums)
    {
        new Span<float>(sums, item.Rows * ChunkColumns).Clear();
        byte* weights = Weights.Chunk(item.Expert, chunk, out int tiles);
        int next = SharedItems.None;
        for (int k = 0; k < Weights.Blocks; k++)
        {
            nint row = (nint)k * Rows + item.FirstRow, aheadRow = row + Rows;
            int aheadRows = item.Rows;
            byte* following = weights + (nint)tiles * Kernels.BlockBytes;
            if (k + 1 == Weights.Blocks)
            {
                next = shared.Take(chunk, ItemCount);
                WorkItem after = next != SharedItems.None ? Items[next] : item;
                (aheadRow, aheadRows) = (after.FirstRow, after.Rows);
                following = next != SharedItems.None ? Weights.Chunk(after.Expert, chunk, out _) : null;
            }
            block.Depth = Math.Min(Depth, Weights.Depth - k * Depth);
            block.Operands = Operands(row, item.Rows, operands);
            block.RowScales = HasScales ? ActivatedScales + row : null;
            block.Sums = sums;
            var ahead = new RowsAhead((byte*)(Activated + aheadRow * Depth), TileBlock.StoredRowBytes, rows: null, aheadRows, TileBlock.StoredRowBytes);
            Kernels.MultiplyTiles(ref block, item.Rows, tiles, new BlockRun(weights, tiles, Kernels.BlockBytes, following), ahead);
            weights = following;
        }
        return next;
    }

    /// <summary>Rows of one 128-K block as kernels multiply them: where they lie, or widened.</summary>
    private readonly byte* Operands(nint row, int rows, byte* widened)
    {
        BFloat16* stored = Activated + row * Depth;
        if (Kernels.WidenedRowBytes == 0) return (byte*)stored;
        Kernels.Take(stored, widened, rows * Depth);
        return widened;
    }

    /// <summary>Adds the bias and rounds an expert's rows to BF16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Round(WorkItem item, int chunk, float* sums, BFloat16* rounded)
    {
        int count = Math.Min(ChunkColumns, Hidden - chunk * ChunkColumns);
        float* bias = Bias == null ? null : Bias + (nint)item.Expert * Hidden + chunk * ChunkColumns;
        if (RowKernels.Round != null && count == ChunkColumns)
        {
            var rows = new RoundRows { Sums = sums, Bias = bias, Rounded = rounded, Rows = item.Rows };
            RowKernels.Round(&rows);
            return;
        }
        for (int column = 0; column < ChunkColumns; column += TileBlock.Columns)
        {
            int biases = bias == null ? 0 : Math.Min(TileBlock.Columns, count - column);
            for (int r = 0; r < item.Rows; r++, sums += TileBlock.Columns)
            {
                for (int c = 0; c < biases; c++) sums[c] += bias[column + c];
                Conversions.ToBFloat16(new ReadOnlySpan<float>(sums, TileBlock.Columns), new Span<BFloat16>(rounded + r * ChunkColumns + column, TileBlock.Columns));
            }
        }
    }

    [SkipLocalsInit, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Combine(int chunk, BFloat16* rounded)
    {
        int first = chunk * ChunkColumns, count = Math.Min(ChunkColumns, Hidden - first);
        float one = 1;
        float* totals = stackalloc float[CombineEmitter.MaxColumns];
        bool byKernel = RowKernels.CombineToBf16 != null && count == ChunkColumns && Output != null;
        for (int t = 0; t < Tokens; t++)
        {
            nint at = (nint)t * Hidden + first;
            var rows = new CombineRows
            {
                Rows = rounded,
                RowOfSlot = RowOfSlot + t * TopK,
                Weights = RouterWeights == null ? &one : RouterWeights + t * TopK, // weights that the input took leave K = 1
                Target = byKernel ? Output + at : totals,
                TopK = TopK,
            };
            if (byKernel)
            {
                RowKernels.CombineToBf16(&rows);
                continue;
            }
            Sum(rows, totals, ChunkColumns);
            var values = new ReadOnlySpan<float>(totals, count);
            if (Output != null) Conversions.ToBFloat16(values, new Span<BFloat16>(Output + at, count));
            else values.CopyTo(new Span<float>(OutputF32 + at, count));
        }
    }

    /// <summary>Totals = weighted sum of the token's rows, in slot order.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sum(in CombineRows rows, float* totals, int columns)
    {
        new Span<float>(totals, columns).Clear();
        for (int slot = 0; slot < rows.TopK; slot++)
        {
            if (rows.RowOfSlot[slot] < 0) continue;
            var row = (ushort*)(rows.Rows + (nint)rows.RowOfSlot[slot] * columns);
            var weight = new Vector<float>(rows.Weights[slot]);
            for (int c = 0; c < columns; c += Vector<ushort>.Count)
            {
                Vector.Widen(Vector.Load(row + c), out Vector<uint> low, out Vector<uint> high);
                float* total = totals + c;
                Vector.FusedMultiplyAdd(Vector.AsVectorSingle(low << 16), weight, Vector.Load(total)).Store(total);
                total += Vector<float>.Count;
                Vector.FusedMultiplyAdd(Vector.AsVectorSingle(high << 16), weight, Vector.Load(total)).Store(total);
            }
        }
    }
}
