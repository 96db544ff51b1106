using System.Numerics;
using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>
/// Steps 6 and 7, Down and Combine, fused: a task computes a chunk of the hidden columns for all rows of all experts, then sums each token's rows in
/// slot order. Only one chunk of unsummed rows exists per thread. T tokens, H hidden, S = T*K rows.
/// </summary>
internal unsafe struct DownJob : ITeamJob
{
    private const int Depth = TileBlock.MaxDepth;

    public TileKernels Kernels;
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
    public byte* Activated;
    /// <summary>[⌈I/128⌉, S].</summary>
    public float* ActivatedScales;
    /// <summary>[E, H]; null without.</summary>
    public float* Bias;
    /// <summary>[T, K]; null means all 1.</summary>
    public float* RouterWeights;
    /// <summary>[threads, S, chunk columns].</summary>
    public float* Scratch;
    /// <summary>[T, H], or null.</summary>
    public BFloat16* Output;
    /// <summary>[T, H], or null.</summary>
    public float* OutputF32;

    private readonly int ChunkColumns => Weights.TilesPerChunk * TileBlock.Columns;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void Execute(int chunk, int thread)
    {
        float* sums = Scratch + (nint)thread * Rows * ChunkColumns;
        for (int i = 0; i < ItemCount; i++)
        {
            float* itemSums = sums + (nint)Items[i].FirstRow * ChunkColumns;
            Multiply(Items[i], chunk, itemSums);
            Round(Items[i], chunk, itemSums);
        }
        Combine(chunk, sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Multiply(WorkItem item, int chunk, float* sums)
    {
        new Span<float>(sums, item.Rows * ChunkColumns).Clear();
        var block = new TileBlock { Sums = sums, SumStride = ChunkColumns };
        byte* weights = Weights.Chunk(item.Expert, chunk, out int tiles);
        for (int k = 0; k < Weights.Blocks; k++, weights += tiles * Kernels.BlockBytes)
        {
            nint row = (nint)k * Rows + item.FirstRow;
            block.Depth = Math.Min(Depth, Weights.Depth - k * Depth);
            block.Operands = Activated + row * Kernels.OperandRowBytes;
            block.RowScales = HasScales ? ActivatedScales + row : null;
            Kernels.Multiply(block, weights, tiles, item.Rows);
        }
    }

    /// <summary>Adds the bias and rounds an expert's rows to BF16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Round(WorkItem item, int chunk, float* sums)
    {
        int count = Math.Min(ChunkColumns, Hidden - chunk * ChunkColumns);
        float* bias = Bias == null ? null : Bias + (nint)item.Expert * Hidden + chunk * ChunkColumns;
        for (int r = 0; r < item.Rows; r++, sums += ChunkColumns)
        {
            for (int c = 0; bias != null && c < count; c++) sums[c] += bias[c];
            for (int c = 0; c < ChunkColumns; c += Vector<float>.Count) GatedActivationVector.Round(Vector.Load(sums + c)).Store(sums + c);
        }
    }

    [SkipLocalsInit, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Combine(int chunk, float* sums)
    {
        int first = chunk * ChunkColumns, count = Math.Min(ChunkColumns, Hidden - first);
        float* total = stackalloc float[ChunkColumns];
        for (int t = 0; t < Tokens; t++)
        {
            new Span<float>(total, ChunkColumns).Clear();
            for (int slot = t * TopK; slot < (t + 1) * TopK; slot++)
            {
                if (RowOfSlot[slot] < 0) continue;
                float* row = sums + (nint)RowOfSlot[slot] * ChunkColumns;
                var weight = new Vector<float>(RouterWeights == null ? 1f : RouterWeights[slot]);
                for (int c = 0; c < ChunkColumns; c += Vector<float>.Count)
                    Vector.FusedMultiplyAdd(Vector.Load(row + c), weight, Vector.Load(total + c)).Store(total + c);
            }
            nint at = (nint)t * Hidden + first;
            var values = new ReadOnlySpan<float>(total, count);
            if (Output != null) Conversions.ToBFloat16(values, new Span<BFloat16>(Output + at, count));
            else values.CopyTo(new Span<float>(OutputF32 + at, count));
        }
    }
}
