using System.Globalization;

namespace MoeSharp;

/// <summary>What quantizing did to weights: sums that add up over tensors.</summary>
/// <param name="Layer">Decoder layer.</param>
/// <param name="Part">Expert, or <see cref="Shared"/>, or <see cref="Linear"/>.</param>
/// <param name="Squares">Sum of the squared weights.</param>
/// <param name="ErrorSquares">Sum of the squared differences.</param>
/// <param name="Values">Weights.</param>
/// <param name="Saturated">Codes of the largest magnitude, 448.</param>
/// <param name="Blocks">Scale blocks.</param>
/// <param name="DeadBlocks">Blocks whose codes are all zero.</param>
internal sealed record QuantizationError(
    int Layer, int Part, double Squares, double ErrorSquares, long Values, long Saturated, long Blocks, long DeadBlocks)
{
    /// <summary>The shared experts of a layer.</summary>
    public const int Shared = -1;
    /// <summary>Other linear layers.</summary>
    public const int Linear = -2;

    /// <summary>Norm of the difference over norm of the weights; 0 where both are 0.</summary>
    public double Relative => ErrorSquares == 0 ? 0 : Math.Sqrt(ErrorSquares / Squares);

    /// <summary>Signal over noise in dB; infinite when exact.</summary>
    public double Decibels => -20 * Math.Log10(Relative);

    public double SaturatedShare => (double)Saturated / Values;

    public static QuantizationError operator +(QuantizationError a, QuantizationError b) => a with
    {
        Squares = a.Squares + b.Squares,
        ErrorSquares = a.ErrorSquares + b.ErrorSquares,
        Values = a.Values + b.Values,
        Saturated = a.Saturated + b.Saturated,
        Blocks = a.Blocks + b.Blocks,
        DeadBlocks = a.DeadBlocks + b.DeadBlocks,
    };

    /// <summary>Compares a quantized matrix with the rows it was made from.</summary>
    public static QuantizationError Of(Piece piece, BlockScaledMatrix matrix, Action<int, float[]> readRow)
    {
        float[] before = new float[matrix.Columns], after = new float[matrix.Columns];
        var alive = new bool[matrix.ScaleRows * matrix.ScaleColumns];
        double squares = 0, errors = 0;
        long saturated = 0;
        int width = matrix.Format.BlockColumns();
        for (int r = 0; r < matrix.Rows; r++)
        {
            readRow(r, before);
            matrix.DequantizeRow(r, after);
            for (int c = 0; c < before.Length; c++)
            {
                double difference = (double)after[c] - before[c];
                squares += (double)before[c] * before[c];
                errors += difference * difference;
            }
            ReadOnlySpan<byte> codes = matrix.Row(r);
            foreach (byte code in codes) saturated += (code & 0x7F) == 0x7E ? 1 : 0;
            int blocks = matrix.ScaleRowOf(r) * matrix.ScaleColumns;
            for (int b = 0; b < matrix.ScaleColumns; b++)
                alive[blocks + b] |= codes[(b * width)..Math.Min((b + 1) * width, codes.Length)].ContainsAnyExcept((byte)0x00, (byte)0x80);
        }
        return new(piece.Layer, piece.Part, squares, errors, (long)matrix.Rows * matrix.Columns, saturated, alive.Length, alive.Count(a => !a));
    }

    /// <summary>One error per layer and part.</summary>
    public static IReadOnlyList<QuantizationError> Sum(IEnumerable<QuantizationError> errors) =>
    [
        .. errors.GroupBy(e => (e.Layer, e.Part)).Select(g => g.Aggregate((a, b) => a + b))
            .OrderBy(e => e.Layer).ThenBy(e => e.Part < 0).ThenBy(e => Math.Abs(e.Part)),
    ];

    public string ToLine() => string.Create(CultureInfo.InvariantCulture,
        $"{Layer} {Part} {Squares:R} {ErrorSquares:R} {Values} {Saturated} {Blocks} {DeadBlocks}");

    public static QuantizationError FromLine(string line)
    {
        string[] f = line.Split(' ');
        long Whole(int i) => long.Parse(f[i], CultureInfo.InvariantCulture);
        return new((int)Whole(0), (int)Whole(1), double.Parse(f[2], CultureInfo.InvariantCulture), double.Parse(f[3], CultureInfo.InvariantCulture),
            Whole(4), Whole(5), Whole(6), Whole(7));
    }
}
