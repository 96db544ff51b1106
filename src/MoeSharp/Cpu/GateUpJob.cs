using System.Numerics;
using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>
/// Steps 3 to 5, Permute, GateUp and Activate, fused: a task multiplies the rows of one item with 128 gate and the 128 matching up columns, activates
/// and requantizes. T tokens, H hidden, S = T*K rows.
/// </summary>
internal unsafe struct GateUpJob : ITeamJob
{
    private const int Depth = TileBlock.MaxDepth, Half = TileBlock.Columns / 2;

    public TileKernels Kernels;
    public RowKernels RowKernels;
    public PackedPointer Weights;
    public GatedActivationVector Activation;
    public RowQuantizer Quantizer;
    public QuantizationRule Rule;
    public WorkItem* Items;
    /// <summary>Items, where tasks go chunk by chunk: memory nodes hold chunks. 0: item by item.</summary>
    public int ItemsPerChunk;
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

    [SkipLocalsInit, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void Execute(int task, int thread)
    {
        int chunk = ItemsPerChunk > 0 ? task / ItemsPerChunk : task % Weights.Chunks;
        WorkItem item = Items[ItemsPerChunk > 0 ? task % ItemsPerChunk : task / Weights.Chunks];
        byte* decoded = Scratch + (nint)thread * ScratchBytes(ScratchRows, Kernels), operands = decoded + Kernels.DecodedBytes + ScratchRows * 2 * Depth * sizeof(float);
        float* sums = (float*)(decoded + Kernels.DecodedBytes), scales = (float*)(operands + ScratchRows * Kernels.OperandRowBytes);
        int* tokens = stackalloc int[WorkItem.MaxRows];
        for (int r = 0; r < item.Rows; r++) tokens[r] = SlotOfRow[item.FirstRow + r] / TopK;
        new Span<float>(sums, item.Rows * 2 * Depth).Clear();
        var block = new TileBlock();
        byte* weights = Weights.Chunk(item.Expert, chunk, out int tiles);
        Prefetch.Bytes(weights, Kernels.BlockBytes);
        var run = new BlockRun(weights, Weights.Blocks * tiles, Kernels.BlockBytes, following: null);
        Kernels.Begin(ref block, decoded, run);
        int share = (item.Rows + tiles - 1) / tiles;
        for (int k = 0; k < Weights.Blocks; k++)
        {
            Point(ref block, tokens, item.Rows, k, operands, scales);
            block.Sums = sums;
            var ahead = new RowsAhead((byte*)Source(0, k + 1), (nint)Weights.Depth * sizeof(BFloat16), tokens, item.Rows, TileBlock.StoredRowBytes);
            for (int tile = 0; tile < tiles; tile++, run.Advance(), block.Sums += item.Rows * TileBlock.Columns) Kernels.Multiply(ref block, item.Rows, run, ref ahead, share);
        }
        Kernels.End();
        if (RowKernels.Activate == null) Activate(item, chunk, sums);
        else ActivateByKernel(item, chunk, sums);
    }

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
