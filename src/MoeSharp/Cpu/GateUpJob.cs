using System.Numerics;
using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>
/// Steps 3 to 5, Permute, GateUp and Activate, fused: a task multiplies the rows of one item with 128 gate and the 128 matching up columns, activates
/// and requantizes. A thread that finds no task left multiplies parts of others' last ones. T tokens, H hidden, S = T*K rows.
/// </summary>
internal unsafe struct GateUpJob : IWorkerJob
{
    private const int Depth = TileBlock.MaxDepth, Half = TileBlock.Columns / 2;
    /// <summary>Tiles of a part of a task that threads share.</summary>
    private const int PartTiles = 4;

    public TileKernels Kernels;
    public RowKernels RowKernels;
    public PackedPointer Weights;
    public GatedActivationVector Activation;
    public RowQuantizer Quantizer;
    public QuantizationRule Rule;
    public WorkItem* Items;
    public int ItemCount;
    /// <summary>Memory nodes. Of several each holds chunks, so tasks go chunk by chunk; else item by item.</summary>
    public int Nodes;
    /// <summary>[S].</summary>
    public int* SlotOfRow;
    public int TopK;
    /// <summary>I.</summary>
    public int Intermediate;
    /// <summary>S.</summary>
    public int Rows;
    /// <summary>[T, H] operands.</summary>
    public BFloat16* Hidden;
    /// <summary>[T, ⌈H/128⌉].</summary>
    public float* HiddenScales;
    /// <summary>[E, 2, chunks * 128]: gate, then up, zeros after I; null without.</summary>
    public float* Bias;
    /// <summary>[threads], zeros at first.</summary>
    public SharedItems* Shared;
    /// <summary>Threads that may take part.</summary>
    public int Threads;
    /// <summary>How many tasks at the end of each node's share are multiplied in parts.</summary>
    public int SharedTasks;
    /// <summary>[threads, <see cref="ScratchBytes"/>].</summary>
    public byte* Scratch;
    /// <summary>Rows that the scratch of a thread is for.</summary>
    public int ScratchRows;
    /// <summary>[⌈I/128⌉, S, 128] operands: what Down multiplies, block by block.</summary>
    public BFloat16* Activated;
    /// <summary>[⌈I/128⌉, S].</summary>
    public float* ActivatedScales;

    /// <summary>Bytes of scratch for one thread: decoded blocks, sums, operands of a block, their scales.</summary>
    public static int ScratchBytes(int rows, in TileKernels kernels)
    {
        int readable = Formats.Blocks(rows, AmxEmitter.TileRows) * AmxEmitter.TileRows;
        return kernels.DecodedBytes + readable * (2 * Depth * sizeof(float) + kernels.OperandRowBytes + sizeof(float));
    }

    /// <summary>Some tiles of a task, which a thread multiplies at a time, for the thread that activates: all tiles, or those of a part.</summary>
    private readonly record struct Piece(int Task, int From, int To, int Owner, bool IsPart)
    {
        public static readonly Piece None = new(TeamTasks.None, 0, 0, 0, false);
    }

    /// <summary>What a thread carries from piece to piece.</summary>
    private ref struct Worker
    {
        public int Thread;
        public TileBlock Block;
        /// <summary>The piece at hand was known to the one before, which asked for its first block and rows.</summary>
        public bool GoesOn;
        /// <summary>Tokens of the rows at hand, and room for those of the next.</summary>
        public int* Tokens, NextTokens;
    }

    [SkipLocalsInit]
    public readonly void Work(ref TeamTasks tasks, int thread)
    {
        int* tokens = stackalloc int[2 * WorkItem.MaxRows];
        var worker = new Worker { Thread = thread, Tokens = tokens, NextTokens = tokens + WorkItem.MaxRows };
        for (Piece piece = Begin(tasks.Take(), thread); piece.Task != TeamTasks.None;)
        {
            int task = piece.Task;
            bool isShared = piece.IsPart;
            (WorkItem item, int chunk) = ItemOf(task);
            new Span<float>(SumsOf(thread), item.Rows * 2 * Depth).Clear(); // also of tiles that a last chunk has not
            if (isShared) Shared[thread].Begin(task, taken: 1);
            do piece = Multiply(piece, ref worker, ref tasks);
            while (piece.Task == task);
            if (isShared)
            {
                Shared[thread].Wait(PartsOf(task));
                piece = Begin(tasks.Take(), thread);
            }
            if (RowKernels.Activate == null) Activate(item, chunk, SumsOf(thread));
            else ActivateByKernel(item, chunk, SumsOf(thread));
        }
        for (int other = 1; other < Threads; other++) Help((thread + other) % Threads, ref worker, ref tasks);
    }

    /// <summary>Multiplies parts of another thread's task, if there are any.</summary>
    private readonly void Help(int owner, ref Worker worker, ref TeamTasks tasks)
    {
        int task = Shared[owner].Task;
        if (task < 0) return;
        for (Piece piece = TakePart(task, owner); piece.Task != TeamTasks.None;) piece = Multiply(piece, ref worker, ref tasks);
    }

    /// <summary>The first piece of a task.</summary>
    private readonly Piece Begin(int task, int thread)
    {
        if (task == TeamTasks.None) return Piece.None;
        int tasks = ItemCount * Weights.Chunks;
        bool isShared = TeamTasks.EndOfShare(tasks, Nodes, TeamTasks.ShareOf(task, tasks, Nodes)) - task <= SharedTasks;
        return isShared ? Part(task, 0, thread) : new(task, 0, TilesOf(task), thread, IsPart: false);
    }

    private readonly Piece TakePart(int task, int owner) => Shared[owner].Take(task, PartsOf(task)) is var part and not SharedItems.None ? Part(task, part, owner) : Piece.None;

    private readonly Piece Part(int task, int part, int owner) => new(task, part * PartTiles, Math.Min(TilesOf(task), (part + 1) * PartTiles), owner, IsPart: true);

    private readonly int PartsOf(int task) => Formats.Blocks(TilesOf(task), PartTiles);

    private readonly int TilesOf(int task) => Weights.TilesOf(ItemOf(task).Chunk);

    private readonly (WorkItem Item, int Chunk) ItemOf(int task) => Nodes > 1
        ? (Items[task % ItemCount], task / ItemCount)
        : (Items[task / Weights.Chunks], task % Weights.Chunks);

    private readonly byte* DecodedOf(int thread) => Scratch + (nint)thread * ScratchBytes(ScratchRows, Kernels);

    /// <summary>[tiles, rows of the item, 32].</summary>
    private readonly float* SumsOf(int thread) => (float*)(DecodedOf(thread) + Kernels.DecodedBytes);

    /// <summary>A piece's blocks of the first K block; those of the next lie a step further.</summary>
    private readonly byte* BlocksOf(Piece piece, out nint step)
    {
        (WorkItem item, int chunk) = ItemOf(piece.Task);
        byte* first = Weights.Chunk(item.Expert, chunk, out int tiles);
        step = (nint)tiles * Kernels.BlockBytes;
        return first + piece.From * Kernels.BlockBytes;
    }

    private readonly void FindTokens(WorkItem item, int* tokens)
    {
        for (int r = 0; r < item.Rows; r++) tokens[r] = SlotOfRow[item.FirstRow + r] / TopK;
    }

    /// <summary>Sums of a piece over all K. Returns the thread's next, which is taken as late as its first block and rows are asked for, since others may take it until then.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly Piece Multiply(Piece piece, ref Worker worker, ref TeamTasks tasks)
    {
        WorkItem item = ItemOf(piece.Task).Item;
        ref TileBlock block = ref worker.Block;
        byte* operands = (byte*)(SumsOf(worker.Thread) + ScratchRows * 2 * Depth), weights = BlocksOf(piece, out nint step);
        float* scales = (float*)(operands + ScratchRows * Kernels.OperandRowBytes);
        int width = piece.To - piece.From;
        if (!worker.GoesOn)
        {
            FindTokens(item, worker.Tokens);
            Prefetch.Bytes(weights, Kernels.BlockBytes);
            Kernels.Begin(ref block, DecodedOf(worker.Thread), new BlockRun(weights, width, Kernels.BlockBytes, weights + step));
        }
        Piece next = Piece.None;
        for (int k = 0; k < Weights.Blocks; k++)
        {
            byte* following = weights + step;
            RowsAhead ahead = Ahead(k + 1, worker.Tokens, item.Rows);
            if (k + 1 == Weights.Blocks)
            {
                next = piece.IsPart ? TakePart(piece.Task, piece.Owner) : Begin(tasks.Take(), worker.Thread);
                following = null;
                ahead = default;
                if (next.Task != TeamTasks.None)
                {
                    WorkItem after = ItemOf(next.Task).Item;
                    following = BlocksOf(next, out _);
                    FindTokens(after, worker.NextTokens);
                    ahead = Ahead(0, worker.NextTokens, after.Rows);
                }
            }
            Point(ref block, worker.Tokens, item.Rows, k, operands, scales);
            block.Sums = SumsOf(piece.Owner) + piece.From * item.Rows * TileBlock.Columns;
            Kernels.MultiplyTiles(ref block, item.Rows, width, new BlockRun(weights, width, Kernels.BlockBytes, following), ahead);
            weights = following;
        }
        if (piece.IsPart) Shared[piece.Owner].End();
        worker.GoesOn = next.Task != TeamTasks.None;
        if (!worker.GoesOn)
        {
            Kernels.End();
            return next;
        }
        int* done = worker.Tokens;
        worker.Tokens = worker.NextTokens;
        worker.NextTokens = done;
        return next;
    }

    /// <summary>Rows of a 128-K block, to be asked for.</summary>
    private readonly RowsAhead Ahead(int k, int* tokens, int rows) => new((byte*)Source(0, k), (nint)Weights.Depth * sizeof(BFloat16), tokens, rows, TileBlock.StoredRowBytes);

    /// <summary>A token's operands of a 128-K block.</summary>
    private readonly BFloat16* Source(int token, int k) => Hidden + ((nint)token * Weights.Depth + (nint)k * Depth);

    /// <summary>Points a block at an item's rows of one 128-K block: one row where it lies, if kernels take it as it is, others together in the scratch.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private readonly void Point(ref TileBlock block, int* tokens, int rows, int k, byte* operands, float* scales)
    {
        block.Depth = Math.Min(Depth, Weights.Depth - k * Depth);
        if (rows == 1 && block.Depth == Depth && Kernels.WidenedRowBytes == 0)
        {
            operands = (byte*)Source(tokens[0], k);
            scales = HiddenScales + (nint)tokens[0] * Weights.Blocks + k;
        }
        else Fetch(tokens, rows, k, block.Depth, operands, scales);
        block.Operands = operands;
        block.RowScales = Quantizer.HasScales ? scales : null;
    }

    /// <summary>Brings an item's rows of one 128-K block together.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Fetch(int* tokens, int rows, int k, int depth, byte* operands, float* scales)
    {
        int rowBytes = Kernels.OperandRowBytes, bytes = rowBytes / Depth * depth;
        for (int r = 0; r < rows; r++, operands += rowBytes)
        {
            Kernels.Take(Source(tokens[r], k), operands, depth);
            if (bytes < rowBytes) new Span<byte>(operands + bytes, rowBytes - bytes).Clear();
            if (Quantizer.HasScales) scales[r] = HiddenScales[(nint)tokens[r] * Weights.Blocks + k];
        }
    }

    private readonly void ActivateByKernel(WorkItem item, int chunk, float* sums)
    {
        nint row = (nint)chunk * Rows + item.FirstRow;
        float* bias = Bias == null ? null : Bias + ((nint)item.Expert * 2 * Weights.Chunks + chunk) * Depth;
        var rows = new ActivateRows
        {
            Sums = sums,
            GateBias = bias,
            UpBias = bias + Weights.Chunks * Depth,
            Operands = Activated + row * Depth,
            Scales = ActivatedScales + row,
            Rows = item.Rows,
        };
        RowKernels.Activate(&rows);
    }

    [SkipLocalsInit, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Activate(WorkItem item, int chunk, float* sums)
    {
        float* values = stackalloc float[Depth];
        int count = Math.Min(Depth, Intermediate - chunk * Depth);
        float* gateBias = Bias == null ? null : Bias + ((nint)item.Expert * 2 * Weights.Chunks + chunk) * Depth;
        float* upBias = gateBias + Weights.Chunks * Depth;
        for (int r = 0; r < item.Rows; r++, sums += TileBlock.Columns)
        {
            for (int c = 0; c < count; c += Vector<float>.Count)
            {
                float* gate = sums + c / Half * item.Rows * TileBlock.Columns + c % Half;
                Vector<float> g = Vector.Load(gate), u = Vector.Load(gate + Half);
                if (Bias != null)
                {
                    g += Vector.Load(gateBias + c);
                    u += Vector.Load(upBias + c);
                }
                Activation.Apply(g, u).Store(values + c);
            }
            nint row = (nint)chunk * Rows + item.FirstRow + r;
            BFloat16* operands = Activated + row * Depth;
            Quantizer.Quantize(new Span<float>(values, count), Rule, operands, ActivatedScales + row);
            new Span<BFloat16>(operands + count, Depth - count).Clear();
        }
    }
}
