namespace MoeSharp;

/// <summary>
/// Quantizes hidden states as the layer itself would, for callers that hand them over quantized (<see cref="ExpertsInput.QuantizedHidden"/>), and
/// packs scales for tensor cores. NaN stays NaN and does not count for a scale; a group with an infinity has scale Inf (E8M0 255), its infinities
/// become NaN codes and its finite values zeros.
/// </summary>
public static class Quantizer
{
    /// <summary>E4M3 codes and one FP32 scale per 128 values of a row; the last group of a row may be ragged.</summary>
    /// <param name="hidden">[T, H].</param>
    /// <param name="hiddenSize">H.</param>
    /// <param name="format">The weights' format: <see cref="WeightFormat.Block128"/> or <see cref="WeightFormat.Block128PowerOfTwo"/>.</param>
    /// <param name="codes">[T, H].</param>
    /// <param name="scales">[T, ⌈H/128⌉], row-major; multipliers.</param>
    /// <exception cref="ArgumentException">A length is wrong, or the format has no FP32 activation scales.</exception>
    public static void QuantizeHidden(ReadOnlySpan<BFloat16> hidden, int hiddenSize, WeightFormat format, Span<Float8E4M3> codes, Span<float> scales)
    {
        if (format is not (WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo))
            throw new ArgumentException(
                $"{format} has no FP32 activation scales; MXFP8 rows take E8M0 scales and BF16 rows are not quantized.", nameof(format));
        int group = format.BlockColumns(), groups = Formats.Blocks(hiddenSize, group);
        bool powerOfTwo = format == WeightFormat.Block128PowerOfTwo;
        int tokens = Tokens(hidden.Length, hiddenSize, codes.Length, scales.Length, groups);
        for (int t = 0; t < tokens; t++)
        {
            ReadOnlySpan<BFloat16> row = hidden.Slice(t * hiddenSize, hiddenSize);
            ActivationQuantizer.QuantizeRow(
                row, QuantizationRule.Input, powerOfTwo, group, codes.Slice(t * hiddenSize, hiddenSize), scales.Slice(t * groups, groups));
        }
    }

    /// <summary>MXFP8: E4M3 codes and one UE8M0 scale per 32 values of a row; the last group of a row may be ragged.</summary>
    /// <param name="hidden">[T, H].</param>
    /// <param name="hiddenSize">H.</param>
    /// <param name="codes">[T, H].</param>
    /// <param name="scales">[T, ⌈H/32⌉], row-major.</param>
    /// <exception cref="ArgumentException">A length is wrong.</exception>
    public static void QuantizeHidden(ReadOnlySpan<BFloat16> hidden, int hiddenSize, Span<Float8E4M3> codes, Span<ScaleE8M0> scales)
    {
        int groups = Formats.Blocks(hiddenSize, WeightFormat.MxFp8.BlockColumns());
        int tokens = Tokens(hidden.Length, hiddenSize, codes.Length, scales.Length, groups);
        for (int t = 0; t < tokens; t++)
        {
            ReadOnlySpan<BFloat16> row = hidden.Slice(t * hiddenSize, hiddenSize);
            ActivationQuantizer.QuantizeRowMx(row, codes.Slice(t * hiddenSize, hiddenSize), scales.Slice(t * groups, groups));
        }
    }

    /// <summary>Words of packed scales: ⌈groups/4⌉ columns of rows rounded up to 4.</summary>
    public static int PackedWords(int rows, int groups) => checked(Formats.Blocks(groups, 4) * ColumnStride(rows));

    /// <summary>
    /// Four exponent bytes to a word, the first group lowest; word p of row r lies at p * (rows rounded up to 4) + r. What has no scale is 0.
    /// </summary>
    /// <param name="scales">[rows, groups], row-major.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="groups">Groups in a row.</param>
    /// <param name="words">As many as <see cref="PackedWords"/> says; written completely.</param>
    /// <exception cref="ArgumentException">A length is wrong.</exception>
    public static void PackScales(ReadOnlySpan<ScaleE8M0> scales, int rows, int groups, Span<int> words)
    {
        RequireLengths(scales.Length, rows, groups, words.Length);
        words.Clear();
        for (int i = 0; i < scales.Length; i++) Place(scales[i], i, rows, groups, words);
    }

    /// <summary>The same from FP32 scales that are powers of two; 0 becomes byte 0, infinity and NaN 255.</summary>
    /// <exception cref="ArgumentException">A length is wrong, or a scale is not a power of two.</exception>
    public static void PackScales(ReadOnlySpan<float> scales, int rows, int groups, Span<int> words)
    {
        RequireLengths(scales.Length, rows, groups, words.Length);
        words.Clear();
        for (int i = 0; i < scales.Length; i++)
        {
            ScaleE8M0 scale = ScaleE8M0.RoundUp(scales[i]);
            if (float.IsFinite(scales[i]) && scales[i] != 0 && scale.ToSingle() != scales[i])
                throw new ArgumentException(
                    $"Scale {i % groups} of row {i / groups} is {scales[i]}, not a power of two; only powers of two can be packed.", nameof(scales));
            Place(scale, i, rows, groups, words);
        }
    }

    private static int ColumnStride(int rows) => Formats.Blocks(rows, 4) * 4;

    private static void Place(ScaleE8M0 scale, int index, int rows, int groups, Span<int> words)
    {
        int row = index / groups, group = index % groups;
        words[(group / 4 * ColumnStride(rows)) + row] |= scale.Bits << (group % 4 * 8);
    }

    private static int Tokens(int hidden, int hiddenSize, int codes, int scales, int groups)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(hiddenSize);
        if (hidden % hiddenSize != 0)
            throw new ArgumentException($"hidden has {hidden} elements, not a multiple of the hidden size {hiddenSize}.", nameof(hidden));
        int tokens = hidden / hiddenSize;
        if (codes != hidden) throw new ArgumentException($"codes has {codes} elements but hidden has {hidden}; both are [T, H].", nameof(codes));
        if (scales != (long)tokens * groups)
            throw new ArgumentException(
                $"scales has {scales} elements but {tokens} tokens x {groups} groups need {(long)tokens * groups}.", nameof(scales));
        return tokens;
    }

    private static void RequireLengths(int scales, int rows, int groups, int words)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfNegative(groups);
        if (scales != (long)rows * groups)
            throw new ArgumentException(
                $"scales has {scales} elements but {rows} rows x {groups} groups need {(long)rows * groups}.", nameof(scales));
        if (words != PackedWords(rows, groups))
            throw new ArgumentException($"words has {words} elements but {PackedWords(rows, groups)} are needed.", nameof(words));
    }
}
