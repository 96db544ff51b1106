namespace MoeSharp.Tests;

public class WeightQuantizerTests
{
    private static float[] Weights(int rows, int columns, int seed = 1)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, rows * columns).Select(_ => (random.NextSingle() - 0.5f) * MathF.ScaleB(1, random.Next(-6, 3)))];
    }

    private static float[] Row(BlockScaledMatrix matrix, int row, bool scaled)
    {
        var values = new float[matrix.Columns];
        if (scaled) matrix.DequantizeRow(row, values);
        else matrix.DecodeRow(row, values);
        return values;
    }

    [Theory]
    [InlineData(WeightFormat.Block128, 128, 128)]
    [InlineData(WeightFormat.Block128, 130, 300)]
    [InlineData(WeightFormat.Block128PowerOfTwo, 192, 96)]
    [InlineData(WeightFormat.MxFp8, 3, 100)]
    [InlineData(WeightFormat.MxFp8, 1, 1)]
    public void EveryBlockFollowsItsLargestMagnitude(WeightFormat format, int rows, int columns)
    {
        float[] weights = Weights(rows, columns);
        using var matrix = new Owned(WeightQuantizer.Quantize(format, rows, columns, weights, "w"));
        int blockRows = format.BlockRows(), blockColumns = format.BlockColumns();
        for (int r = 0; r < rows; r++)
        {
            float[] codes = Row(matrix.Value, r, scaled: false);
            for (int c = r % 13; c < columns; c += format == WeightFormat.MxFp8 ? 1 : 13)
            {
                float absMax = 0;
                for (int i = r / blockRows * blockRows; i < Math.Min(rows, (r / blockRows + 1) * blockRows); i++)
                    for (int j = c / blockColumns * blockColumns; j < Math.Min(columns, (c / blockColumns + 1) * blockColumns); j++)
                        absMax = Math.Max(absMax, Math.Abs(weights[i * columns + j]));
                float scale = absMax / 448;
                if (format != WeightFormat.Block128) scale = ScaleE8M0.RoundUp(scale).ToSingle();
                float expected = Float8E4M3.FromBits(Float8E4M3Tests.Nearest(weights[r * columns + c] / scale)).ToSingle();
                float actual = matrix.Value.ScaleAt(r / blockRows, c / blockColumns);
                Assert.True(actual == scale && codes[c] == expected, $"{format} ({r}, {c}): {codes[c]} x {actual}, expected {expected} x {scale}");
            }
        }
    }

    [Fact]
    public void SmallBlocksTakeTheFloor()
    {
        using var plain = new Owned(WeightQuantizer.Quantize(WeightFormat.Block128, 2, 2, new float[4]));
        using var power = new Owned(WeightQuantizer.Quantize(WeightFormat.Block128PowerOfTwo, 2, 2, new float[4]));
        using var mx = new Owned(WeightQuantizer.Quantize(WeightFormat.MxFp8, 2, 2, new float[4]));
        Assert.Equal(1e-4f / 448, plain.Value.ScaleAt(0, 0));
        Assert.Equal(MathF.ScaleB(1, -22), power.Value.ScaleAt(0, 0));
        Assert.Equal(MathF.ScaleB(1, -127), mx.Value.ScaleAt(1, 0));
    }

    [Fact]
    public void BFloat16WeightsGiveTheSameAsTheirFp32()
    {
        BFloat16[] narrow = [.. Weights(150, 170).Select(w => (BFloat16)w)];
        float[] wide = [.. narrow.Select(w => w.ToSingle())];
        foreach (WeightFormat format in new[] { WeightFormat.Block128, WeightFormat.Block128PowerOfTwo, WeightFormat.MxFp8 })
        {
            using var a = new Owned(WeightQuantizer.Quantize(format, 150, 170, narrow));
            using var b = new Owned(WeightQuantizer.Quantize(format, 150, 170, wide));
            for (int r = 0; r < 150; r++) Assert.Equal(Row(b.Value, r, scaled: true), Row(a.Value, r, scaled: true));
        }
    }

    [Theory]
    [InlineData(200, 150, 0)]
    [InlineData(192, 128, 64)]
    [InlineData(96, 130, 96)]
    public void RequantizingRoundsValuesWithTheScale(int rows, int columns, int phase)
    {
        BlockScaledMatrix source = WithPhase(rows, columns, phase);
        using var owner = new Owned(source);
        using var result = new Owned(WeightQuantizer.RequantizePowerOfTwo(source));
        Assert.Equal((WeightFormat.Block128PowerOfTwo, "w"), (result.Value.Format, result.Value.Name));
        Assert.Equal((phase, source.ScaleRows), (result.Value.RowPhase, result.Value.ScaleRows));
        for (int band = 0; band < source.ScaleRows; band++)
            for (int b = 0; b < source.ScaleColumns; b++)
            {
                int first = Math.Max(0, band * 128 - phase), end = Math.Min(rows, (band + 1) * 128 - phase);
                int left = b * 128, right = Math.Min(columns, left + 128);
                float absMax = 0;
                for (int r = first; r < end; r++) absMax = Math.Max(absMax, Row(source, r, true)[left..right].Max(MathF.Abs));
                float scale = result.Value.ScaleAt(band, b);
                Assert.True(scale == ScaleE8M0.RoundUp(Math.Max(absMax, 1e-4f) / 448).ToSingle(), $"scale ({band}, {b})");
                for (int r = first; r < end; r++)
                {
                    float[] wide = Row(source, r, true), codes = Row(result.Value, r, false);
                    for (int c = left; c < right; c++)
                        Assert.True(codes[c] == Float8E4M3.FromBits(Float8E4M3Tests.Nearest(wide[c] / scale)).ToSingle(), $"({r}, {c}): {codes[c]}");
                }
            }
    }

    [Fact]
    public void RequantizingLeavesPowersAloneAndRefusesOtherFormats()
    {
        using var power = new Owned(WeightQuantizer.Quantize(WeightFormat.Block128PowerOfTwo, 4, 4, Weights(4, 4)));
        Assert.Same(power.Value, WeightQuantizer.RequantizePowerOfTwo(power.Value));
        using var mx = new Owned(WeightQuantizer.Quantize(WeightFormat.MxFp8, 4, 4, Weights(4, 4), "w"));
        var formatError = Assert.Throws<ArgumentException>(() => WeightQuantizer.RequantizePowerOfTwo(mx.Value));
        Assert.StartsWith("w is MxFp8; only Block128 can be requantized", formatError.Message);
        Assert.Throws<ArgumentException>(() => WeightQuantizer.Quantize(WeightFormat.Bf16, 4, 4, Weights(4, 4)));
        var lengthError = Assert.Throws<ArgumentException>(() => WeightQuantizer.Quantize(WeightFormat.Block128, 4, 4, new float[15], "w"));
        Assert.StartsWith("w needs 16 values but 15 were given.", lengthError.Message);
    }

    [Fact]
    public void RequantizingExpertsDoesItToEveryMatrix()
    {
        var biases = new ExpertBiases(new float[4], new float[4], new float[8]);
        using var experts = new ExpertWeights([Matrix(4, 8)], [Matrix(4, 8)], [Matrix(8, 4)], biases);
        using ExpertWeights result = WeightQuantizer.RequantizePowerOfTwo(experts);
        Assert.Equal(WeightFormat.Block128PowerOfTwo, result.Format);
        Assert.Same(biases, result.Biases);
        BlockScaledMatrix[] from = [experts.Gate[0], experts.Up[0], experts.Down[0]], to = [result.Gate[0], result.Up[0], result.Down[0]];
        for (int m = 0; m < 3; m++)
        {
            using var expected = new Owned(WeightQuantizer.RequantizePowerOfTwo(from[m]));
            for (int r = 0; r < from[m].Rows; r++) Assert.Equal(Row(expected.Value, r, true), Row(to[m], r, true));
        }
        Assert.Throws<ArgumentException>(() => WeightQuantizer.RequantizePowerOfTwo(result));

        static BlockScaledMatrix Matrix(int rows, int columns) =>
            WeightQuantizer.Quantize(WeightFormat.Block128, rows, columns, Weights(rows, columns, rows));
    }

    [Fact]
    public void NaNAndInfinityFollowTheRule()
    {
        foreach (WeightFormat format in new[] { WeightFormat.Block128, WeightFormat.Block128PowerOfTwo, WeightFormat.MxFp8 })
        {
            using var nan = new Owned(WeightQuantizer.Quantize(format, 1, 3, [1f, float.NaN, -2f]));
            Assert.True(float.IsNaN(Row(nan.Value, 0, false)[1]) && float.IsFinite(nan.Value.ScaleAt(0, 0)), $"{format}");
            using var infinite = new Owned(WeightQuantizer.Quantize(format, 1, 3, [1f, float.NegativeInfinity, -2f]));
            float[] codes = Row(infinite.Value, 0, false);
            Assert.True(codes[0] == 0 && float.IsNaN(codes[1]) && codes[2] == 0 && !float.IsFinite(infinite.Value.ScaleAt(0, 0)), $"{format}");
        }
    }

    /// <summary>Codes and scales as a packed w13 of which this is the up half.</summary>
    private static unsafe BlockScaledMatrix WithPhase(int rows, int columns, int phase)
    {
        BlockScaledMatrix matrix = BlockScaledMatrix.Allocate("w", WeightFormat.Block128, ScaleType.F32, rows, columns, phase);
        var random = new Random(rows);
        for (int i = 0; i < rows * columns; i++) matrix.Storage.Values[i] = Float8E4M3.FromSingle((random.NextSingle() - 0.5f) * 800).Bits;
        for (int i = 0; i < matrix.ScaleRows * matrix.ScaleColumns; i++) ((float*)matrix.Storage.Scales)[i] = 0.001f + random.NextSingle();
        return matrix;
    }

    private sealed class Owned(BlockScaledMatrix matrix) : IDisposable
    {
        public BlockScaledMatrix Value => matrix;
        public void Dispose() => matrix.Storage.ValuesOwner.Dispose();
    }
}
