namespace MoeSharp;

/// <summary>How a layer's weights are cut into pieces for loading, and what that takes while it lasts.</summary>
internal readonly struct UploadPlan
{
    internal const int CountBytes = 24;
    private const int MostLanes = 8;

    internal UploadPlan(ExpertWeights weights)
    {
        var sizes = new WeightSizes(weights);
        GateUp = WeightCut.Of(2 * sizes.IntermediateBlocks, rowsPerBlock: 64, matrices: 2, weights.Format, weights.HiddenSize, sizes.Passes);
        Down = WeightCut.Of(sizes.HiddenBlocks, rowsPerBlock: 128, matrices: 1, weights.Format, weights.IntermediateSize);
        PiecesPerExpert = GateUp.Pieces + Down.Pieces;
        Pieces = checked(weights.Count * PiecesPerExpert);
        Lanes = Math.Min(Pieces, Math.Clamp(Environment.ProcessorCount, 2, MostLanes));
        SlotBytes = Math.Max(GateUp.Bytes, Down.Bytes);
    }

    internal WeightCut GateUp { get; }
    internal WeightCut Down { get; }
    internal int PiecesPerExpert { get; }
    internal int Pieces { get; }

    /// <summary>Threads that read, each with a stream and two slots.</summary>
    internal int Lanes { get; }

    internal long SlotBytes { get; }

    /// <summary>Device memory beside the weights while they are loaded, and as much pinned memory (but for the count) on the host.</summary>
    internal long StagingBytes => 2 * Lanes * SlotBytes + CountBytes;
}

/// <summary>How the blocks of weight rows of one GEMM are cut into pieces.</summary>
/// <param name="AllBlocks">Of an expert.</param>
/// <param name="Blocks">Of a piece; the last may have fewer.</param>
/// <param name="RowsPerBlock">Rows that a block takes of each matrix.</param>
/// <param name="Matrices">Matrices that lie one behind the other in a piece.</param>
/// <param name="MatrixBytes">Where the second one starts.</param>
/// <param name="ScaleOffset">Where the scales of an MXFP8 matrix start, from its first value.</param>
/// <param name="Passes">How often each block is written; with 2 a piece is a block.</param>
internal readonly record struct WeightCut(int AllBlocks, int Blocks, int RowsPerBlock, int Matrices, long MatrixBytes, long ScaleOffset, int Passes)
{
    /// <summary>Bytes of a piece, unless a single block is larger: copied in less than 0.1 ms, read from memory in less than one.</summary>
    private const int PieceBytes = 2 << 20;

    public int Pieces => Passes * Formats.Blocks(AllBlocks, Blocks);

    public long Bytes => Matrices * MatrixBytes;

    public static WeightCut Of(int allBlocks, int rowsPerBlock, int matrices, WeightFormat format, int columns, int passes = 1)
    {
        int valueBytes = columns * format.ValueBytes(), scaleBytes = format == WeightFormat.MxFp8 ? Formats.Blocks(columns, 32) : 0;
        int blocks = passes > 1 ? 1 : (int)Math.Clamp(PieceBytes / ((long)rowsPerBlock * matrices * (valueBytes + scaleBytes)), 1, allBlocks);
        long rows = (long)blocks * rowsPerBlock, scaleOffset = Padded(rows * valueBytes);
        return new(allBlocks, blocks, rowsPerBlock, matrices, scaleOffset + Padded(rows * scaleBytes), scaleOffset, passes);
    }

    private static long Padded(long bytes) => (bytes + 255) / 256 * 256;
}
