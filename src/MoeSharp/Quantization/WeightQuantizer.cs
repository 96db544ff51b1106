namespace MoeSharp;

/// <summary>
/// Makes FP8 matrices from wider weights. NaN stays NaN and does not count for a scale; a block with an infinity has scale Inf (E8M0 255), its
/// infinities become NaN codes and its finite values zeros.
/// </summary>
public static class WeightQuantizer
{
    /// <summary>A 128 x 128 block's largest magnitude counts as at least this.</summary>
    private const float Floor = 1e-4f;

    /// <summary>Quantizes FP32 weights: scale = largest magnitude / 448, rounded up to a power of two where the format says so.</summary>
    /// <param name="format">A format with FP8 values.</param>
    /// <param name="rows">Output features.</param>
    /// <param name="columns">Input features.</param>
    /// <param name="values">[rows, columns], row-major.</param>
    /// <param name="name">For messages.</param>
    /// <exception cref="ArgumentException">The format is BF16 or the length is wrong.</exception>
    public static BlockScaledMatrix Quantize(WeightFormat format, int rows, int columns, ReadOnlySpan<float> values, string name = "matrix") =>
        Quantize(format, ScaleType.F32, rows, columns, values.Length, new SingleRows(values, columns), name);

    /// <summary>Quantizes BF16 weights.</summary>
    /// <inheritdoc cref="Quantize(WeightFormat, int, int, ReadOnlySpan{float}, string)"/>
    public static BlockScaledMatrix Quantize(WeightFormat format, int rows, int columns, ReadOnlySpan<BFloat16> values, string name = "matrix") =>
        Quantize(format, ScaleType.F32, rows, columns, values.Length, new BFloat16Rows(values, columns), name);

    /// <summary>The same with scales of 128 x 128 blocks as files store them, F32 or BF16: values are divided by the scale that is stored.</summary>
    internal static BlockScaledMatrix Quantize(
        WeightFormat format, ScaleType blockScales, int rows, int columns, ReadOnlySpan<float> values, string name) =>
        Quantize(format, blockScales, rows, columns, values.Length, new SingleRows(values, columns), name);

    /// <inheritdoc cref="Quantize(WeightFormat, ScaleType, int, int, ReadOnlySpan{float}, string)"/>
    internal static BlockScaledMatrix Quantize(
        WeightFormat format, ScaleType blockScales, int rows, int columns, ReadOnlySpan<BFloat16> values, string name) =>
        Quantize(format, blockScales, rows, columns, values.Length, new BFloat16Rows(values, columns), name);

    /// <summary>
    /// The same weights with power-of-two scales. Scales cannot be rounded alone: the values are rounded a second time, to the new scales. A matrix
    /// that is <see cref="WeightFormat.Block128PowerOfTwo"/> already is returned as it is.
    /// </summary>
    /// <exception cref="ArgumentException">The matrix does not have 128 x 128 blocks.</exception>
    public static BlockScaledMatrix RequantizePowerOfTwo(BlockScaledMatrix matrix)
    {
        ArgumentNullException.ThrowIfNull(matrix);
        if (matrix.Format == WeightFormat.Block128PowerOfTwo) return matrix;
        if (matrix.Format != WeightFormat.Block128)
            throw new ArgumentException(
                $"{matrix.Name} is {matrix.Format}; only {WeightFormat.Block128} can be requantized to power-of-two scales.", nameof(matrix));
        BlockScaledMatrix result =
            BlockScaledMatrix.Allocate(matrix.Name, WeightFormat.Block128PowerOfTwo, ScaleType.F32, matrix.Rows, matrix.Columns, matrix.RowPhase);
        FillBlocks(result, new DequantizedRows(matrix));
        return result;
    }

    /// <summary>All matrices of all experts with power-of-two scales. The biases are shared; the result owns its matrices.</summary>
    /// <exception cref="ArgumentException">The weights do not have 128 x 128 blocks, or have power-of-two scales already.</exception>
    public static ExpertWeights RequantizePowerOfTwo(ExpertWeights weights)
    {
        ArgumentNullException.ThrowIfNull(weights);
        if (weights.Format != WeightFormat.Block128)
            throw new ArgumentException(
                $"The weights are {weights.Format}; only {WeightFormat.Block128} can be requantized to power-of-two scales.", nameof(weights));
        return new(All(weights.Gate), All(weights.Up), All(weights.Down), weights.Biases);

        static BlockScaledMatrix[] All(BlockScaledMatrix[] matrices) => Array.ConvertAll(matrices, RequantizePowerOfTwo);
    }

    private static BlockScaledMatrix Quantize<TRows>(
        WeightFormat format, ScaleType blockScales, int rows, int columns, int length, TRows source, string name)
        where TRows : IRows, allows ref struct
    {
        if (format == WeightFormat.Bf16)
            throw new ArgumentException("BF16 matrices are not quantized; use BlockScaledMatrix.CreateBf16.", nameof(format));
        ScaleType scaleType = format == WeightFormat.MxFp8 ? ScaleType.E8M0 : blockScales;
        BlockScaledMatrix matrix = BlockScaledMatrix.Allocate(name, format, scaleType, rows, columns);
        if (length != (long)rows * columns)
            throw new ArgumentException($"{name} needs {(long)rows * columns} values but {length} were given.", "values");
        if (format == WeightFormat.MxFp8) FillMx(matrix, source);
        else FillBlocks(matrix, source);
        return matrix;
    }

    private static unsafe void FillMx<TRows>(BlockScaledMatrix matrix, TRows source) where TRows : IRows, allows ref struct
    {
        var row = new float[matrix.Columns];
        MatrixStorage to = matrix.Storage;
        for (int r = 0; r < matrix.Rows; r++)
        {
            source.Read(r, row);
            ActivationQuantizer.QuantizeRowMx(row, new Span<Float8E4M3>(to.Values + r * to.RowBytes, row.Length),
                new Span<ScaleE8M0>(to.Scales + r * to.ScaleRowBytes, matrix.ScaleColumns));
        }
    }

    /// <summary>Reads each band of block rows twice: for the scales, then for the codes.</summary>
    private static unsafe void FillBlocks<TRows>(BlockScaledMatrix matrix, TRows source) where TRows : IRows, allows ref struct
    {
        int blockRows = matrix.Format.BlockRows(), blockColumns = matrix.Format.BlockColumns();
        var row = new float[matrix.Columns];
        var scales = new float[matrix.ScaleColumns];
        MatrixStorage to = matrix.Storage;
        for (int band = 0; band < matrix.ScaleRows; band++)
        {
            int first = Math.Max(0, band * blockRows - matrix.RowPhase), end = Math.Min(matrix.Rows, (band + 1) * blockRows - matrix.RowPhase);
            Array.Clear(scales);
            for (int r = first; r < end; r++)
            {
                source.Read(r, row);
                for (int b = 0; b < scales.Length; b++) scales[b] = Math.Max(scales[b], ActivationQuantizer.AbsMax(Block(row, b, blockColumns)));
            }
            for (int b = 0; b < scales.Length; b++)
            {
                float scale = Scale(scales[b], matrix.Format == WeightFormat.Block128PowerOfTwo);
                byte* stored = to.Scales + band * to.ScaleRowBytes;
                if (to.ScaleType == ScaleType.BF16) scales[b] = ((BFloat16*)stored)[b] = BFloat16.FromSingle(scale);
                else scales[b] = ((float*)stored)[b] = scale;
            }
            for (int r = first; r < end; r++)
            {
                source.Read(r, row);
                var codes = new Span<byte>(to.Values + r * to.RowBytes, row.Length);
                for (int b = 0; b < scales.Length; b++)
                    ActivationQuantizer.Divide(Block(row, b, blockColumns), scales[b], codes[(b * blockColumns)..]);
            }
        }
    }

    private static float Scale(float absMax, bool powerOfTwo)
    {
        float scale = Math.Max(absMax, Floor) / Float8E4M3.MaxValue;
        return powerOfTwo ? ActivationQuantizer.RoundUpToPowerOfTwo(scale) : scale;
    }

    private static ReadOnlySpan<float> Block(float[] row, int index, int width) =>
        row.AsSpan(index * width, Math.Min(width, row.Length - index * width));

    /// <summary>Rows of weights in FP32, wherever they come from.</summary>
    private interface IRows
    {
        void Read(int row, Span<float> values);
    }

    private readonly ref struct SingleRows(ReadOnlySpan<float> values, int columns) : IRows
    {
        private readonly ReadOnlySpan<float> _values = values;
        public void Read(int row, Span<float> values) => _values.Slice(row * columns, columns).CopyTo(values);
    }

    private readonly ref struct BFloat16Rows(ReadOnlySpan<BFloat16> values, int columns) : IRows
    {
        private readonly ReadOnlySpan<BFloat16> _values = values;
        public void Read(int row, Span<float> values) => Conversions.ToSingle(_values.Slice(row * columns, columns), values);
    }

    private readonly struct DequantizedRows(BlockScaledMatrix matrix) : IRows
    {
        public void Read(int row, Span<float> values) => matrix.DequantizeRow(row, values);
    }
}
