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
    public PackedPointer Weights;
    public GatedActivationVector Activation;
    public RowQuantizer Quantizer;
    public QuantizationRule Rule;
    public WorkItem* Items;
    /// <summary>[S].</summary>
    public int* SlotOfRow;
    public int TopK;
    /// <summary>I.</summary>
    public int Intermediate;
    /// <summary>S.</summary>
    public int Rows;
    /// <summary>[T, H].</summary>
    public float* Hidden;
    /// <summary>[T, ⌈H/128⌉].</summary>
    public float* HiddenScales;
    /// <summary>[E, 2, chunks * 128]: gate, then up, zeros after I; null without.</summary>
    public float* Bias;
    /// <summary>[threads, <see cref="ScratchFloats"/>].</summary>
    public float* Scratch;
    /// <summary>Rows that the scratch of a thread is for.</summary>
    public int ScratchRows;
    /// <summary>[⌈I/128⌉, S, 128]: what Down multiplies, block by block.</summary>
    public float* Activated;
    /// <summary>[⌈I/128⌉, S].</summary>
    public float* ActivatedScales;

    /// <summary>FP32 values of scratch for one thread: rows of a block, their scales, sums.</summary>
    public static int ScratchFloats(int rows) => rows * (Depth + 2 * Depth) + (rows + 31) / 16 * 16;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void Execute(int task, int thread)
    {
        int chunk = task % Weights.Chunks;
        WorkItem item = Items[task / Weights.Chunks];
        float* rows = Scratch + (nint)thread * ScratchFloats(ScratchRows), sums = rows + ScratchRows * Depth, scales = sums + ScratchRows * 2 * Depth;
        new Span<float>(sums, item.Rows * 2 * Depth).Clear();
        var block = new TileBlock { Rows = rows, RowScales = Quantizer.HasScales ? scales : null, SumStride = 2 * Depth, Ahead = Weights.BlockBytes };
        byte* weights = Weights.Chunk(item.Expert, chunk, out int tiles);
        for (int k = 0; k < Weights.Blocks; k++)
        {
            block.Depth = Math.Min(Depth, Weights.Depth - k * Depth);
            Fetch(item, k, block.Depth, rows, scales);
            block.Sums = sums;
            for (int tile = 0; tile < tiles; tile++, weights += Weights.BlockBytes, block.Sums += TileBlock.Columns)
            {
                block.Scales = weights;
                block.Weights = weights + Weights.ScaleBytes;
                Kernels.Multiply(block, item.Rows);
            }
        }
        Activate(item, chunk, sums);
    }

    /// <summary>Brings an item's rows of one 128-K block together.</summary>
    private readonly void Fetch(WorkItem item, int k, int depth, float* rows, float* scales)
    {
        for (int r = 0; r < item.Rows; r++, rows += Depth)
        {
            int token = SlotOfRow[item.FirstRow + r] / TopK;
            new ReadOnlySpan<float>(Hidden + (nint)token * Weights.Depth + k * Depth, depth).CopyTo(new Span<float>(rows, depth));
            if (depth % 2 != 0) rows[depth] = 0;
            if (Quantizer.HasScales) scales[r] = HiddenScales[(nint)token * Weights.Blocks + k];
        }
    }

    [SkipLocalsInit, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Activate(WorkItem item, int chunk, float* sums)
    {
        float* values = stackalloc float[Depth];
        int count = Math.Min(Depth, Intermediate - chunk * Depth);
        float* gateBias = Bias == null ? null : Bias + ((nint)item.Expert * 2 * Weights.Chunks + chunk) * Depth;
        float* upBias = gateBias + Weights.Chunks * Depth;
        for (int r = 0; r < item.Rows; r++, sums += 2 * Depth)
        {
            for (int c = 0; c < count; c += Vector<float>.Count)
            {
                float* gate = sums + c / Half * TileBlock.Columns + c % Half;
                Vector<float> g = Vector.Load(gate), u = Vector.Load(gate + Half);
                if (Bias != null)
                {
                    g += Vector.Load(gateBias + c);
                    u += Vector.Load(upBias + c);
                }
                Activation.Apply(g, u).Store(values + c);
            }
            nint row = (nint)chunk * Rows + item.FirstRow + r;
            var operands = new Span<float>(Activated + row * Depth, count);
            Quantizer.Quantize(new ReadOnlySpan<float>(values, count), Rule, operands, new Span<float>(ActivatedScales + row, 1));
            if (count % 2 != 0) Activated[row * Depth + count] = 0;
        }
    }
}
