namespace MoeSharp;

/// <summary>Finds NaN codes (0x7F, 0xFF) in FP8 weights: in a published checkpoint they mean that a file is damaged or of another FP8 kind.</summary>
internal static class NaNCodes
{
    private const int Ahead = 4; // experts

    /// <summary>The first NaN in row-major order, or null. BF16 matrices are not searched.</summary>
    public static (int Row, int Column)? Find(BlockScaledMatrix matrix)
    {
        if (matrix.Format == WeightFormat.Bf16) return null;
        for (int row = 0; row < matrix.Rows; row++)
        {
            int column = matrix.Row(row).IndexOfAny((byte)0x7F, (byte)0xFF);
            if (column >= 0) return (row, column);
        }
        return null;
    }

    /// <summary>The first NaN of the first expert that has one, or null.</summary>
    public static (int Expert, BlockScaledMatrix Matrix, int Row, int Column)? First(ExpertWeights weights)
    {
        for (int expert = 0; expert < weights.Count; expert++)
            foreach (BlockScaledMatrix matrix in (ReadOnlySpan<BlockScaledMatrix>)[weights.Gate[expert], weights.Up[expert], weights.Down[expert]])
                if (Find(matrix) is (int row, int column)) return (expert, matrix, row, column);
        return null;
    }

    /// <summary>Searches every matrix of every expert, and has the experts after it read from disk meanwhile.</summary>
    /// <exception cref="CheckpointException">There is one; the message names tensor, expert, block and code.</exception>
    public static void Check(ExpertWeights weights, LoadPiece? piece = null)
    {
        for (int expert = -Ahead; expert < weights.Count; expert++)
        {
            if (expert + Ahead < weights.Count) MappedPages.ReadAhead([weights.Gate[expert + Ahead], weights.Up[expert + Ahead], weights.Down[expert + Ahead]]);
            if (expert < 0) continue;
            Check(weights.Gate[expert], expert, "gate");
            Check(weights.Up[expert], expert, "up");
            Check(weights.Down[expert], expert, "down");
            piece?.Finish();
        }
    }

    private static void Check(BlockScaledMatrix matrix, int expert, string what)
    {
        if (Find(matrix) is not (int row, int column)) return;
        throw new CheckpointException(
            $"{matrix.Name} ({what} of expert {expert}) holds the NaN code 0x{matrix.Row(row)[column]:X2} at row {row}, column {column}, " +
            $"in scale block ({matrix.ScaleRowOf(row)}, {column / matrix.Format.BlockColumns()}); AllowNaNWeights accepts NaN weights.");
    }
}
