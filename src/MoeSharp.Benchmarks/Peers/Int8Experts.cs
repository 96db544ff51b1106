namespace MoeSharp.Benchmarks;

/// <summary>
/// The dequantized weights of a layer, quantized again to int8 as QMoE takes them: code 128 stands for zero, one FP32 scale per row and 128 columns.
/// E experts, H hidden, I intermediate; I and H multiples of 128.
/// </summary>
internal sealed unsafe class Int8Experts : IDisposable
{
    private const int Block = QMoeModel.BlockSize;

    public Int8Experts(ExpertWeights weights)
    {
        long e = weights.Count, h = weights.HiddenSize, i = weights.IntermediateSize;
        if (h % Block != 0 || i % Block != 0)
            throw new UnsupportedException($"The peer needs hidden and intermediate sizes that are multiples of {Block}; they are {h} and {i}.");
        Weights1 = new NativeBuffer(e * 2 * i * h);
        Scales1 = new NativeBuffer(e * 2 * i * h / Block * sizeof(float));
        Weights2 = new NativeBuffer(e * h * i);
        Scales2 = new NativeBuffer(e * h * i / Block * sizeof(float));
        Parallel.For(0, weights.Count, expert =>
        {
            long row = 2 * i * expert;
            Quantize(weights.Gate[expert], Weights1, Scales1, row, 2);
            Quantize(weights.Up[expert], Weights1, Scales1, row + 1, 2);
            Quantize(weights.Down[expert], Weights2, Scales2, h * expert, 1);
        });
    }

    /// <summary>[E, 2I, H], row 2i of an expert is gate row i, row 2i + 1 is up row i.</summary>
    public NativeBuffer Weights1 { get; }

    /// <summary>[E, 2I, H / 128].</summary>
    public NativeBuffer Scales1 { get; }

    /// <summary>[E, H, I].</summary>
    public NativeBuffer Weights2 { get; }

    /// <summary>[E, H, I / 128].</summary>
    public NativeBuffer Scales2 { get; }

    private static void Quantize(BlockScaledMatrix matrix, NativeBuffer codes, NativeBuffer scales, long firstRow, int rowStep)
    {
        int columns = matrix.Columns;
        float[] values = new float[columns];
        for (int r = 0; r < matrix.Rows; r++)
        {
            matrix.DequantizeRow(r, values);
            long row = firstRow + (long)r * rowStep;
            byte* target = codes.Pointer + row * columns;
            float* scale = (float*)scales.Pointer + row * (columns / Block);
            for (int c = 0; c < columns; c += Block, target += Block) *scale++ = Quantize(values.AsSpan(c, Block), target);
        }
    }

    private static float Quantize(ReadOnlySpan<float> values, byte* codes)
    {
        float largest = 0;
        foreach (float value in values) largest = Math.Max(largest, Math.Abs(value));
        float scale = largest == 0 ? 1 : largest / 127, inverse = 1 / scale;
        for (int i = 0; i < values.Length; i++) codes[i] = (byte)(128 + (int)MathF.Round(values[i] * inverse));
        return scale;
    }

    public void Dispose()
    {
        foreach (NativeBuffer buffer in (NativeBuffer[])[Weights1, Scales1, Weights2, Scales2]) buffer.Dispose();
    }
}
