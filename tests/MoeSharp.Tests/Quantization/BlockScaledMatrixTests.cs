namespace MoeSharp.Tests;

public class BlockScaledMatrixTests
{
    [Theory]
    [InlineData(WeightFormat.Block128, 200, 130, 2, 2)]
    [InlineData(WeightFormat.Block128PowerOfTwo, 128, 128, 1, 1)]
    [InlineData(WeightFormat.MxFp8, 5, 70, 5, 3)]
    public void EveryElementUsesTheScaleOfItsBlock(WeightFormat format, int rows, int columns, int scaleRows, int scaleColumns)
    {
        var random = new Random(rows);
        Float8E4M3[] values = [.. Enumerable.Range(0, rows * columns).Select(_ => Float8E4M3.FromSingle(random.NextSingle() * 16 - 8))];
        var scales = new float[scaleRows * scaleColumns];
        for (int i = 0; i < scales.Length; i++) scales[i] = format == WeightFormat.Block128 ? i + 1.5f : MathF.ScaleB(1, i - 3);
        BlockScaledMatrix matrix = BlockScaledMatrix.Create(format, rows, columns, values, scales, "w");
        Assert.Equal((scaleRows, scaleColumns), (matrix.ScaleRows, matrix.ScaleColumns));
        Assert.Equal((long)rows * columns + scaleRows * scaleColumns * (format == WeightFormat.MxFp8 ? 1 : 4), matrix.Bytes);
        float[] raw = new float[columns], scaled = new float[columns];
        for (int r = 0; r < rows; r++)
        {
            matrix.DecodeRow(r, raw);
            matrix.DequantizeRow(r, scaled);
            for (int c = 0; c < columns; c++)
            {
                float scale = scales[r / format.BlockRows() * scaleColumns + c / format.BlockColumns()], value = values[r * columns + c].ToSingle();
                Assert.True(raw[c] == value && scaled[c] == value * scale, $"({r}, {c}): {raw[c]}, {scaled[c]}, expected {value} x {scale}");
                Assert.True(matrix.ScaleAt(matrix.ScaleRowOf(r), c / format.BlockColumns()) == scale, $"scale of ({r}, {c})");
            }
        }
        matrix.Storage.ValuesOwner.Dispose();
    }

    [Theory]
    [InlineData(ScaleType.F32)]
    [InlineData(ScaleType.BF16)]
    [InlineData(ScaleType.F16)]
    [InlineData(ScaleType.E8M0)]
    public unsafe void ScalesOfEveryTypeAreReadExactly(ScaleType type)
    {
        BlockScaledMatrix matrix = BlockScaledMatrix.Allocate("w", WeightFormat.Block128, type, 1, 500);
        for (int i = 0; i < 4; i++)
        {
            byte* at = matrix.Storage.Scales + i * type.Bytes();
            switch (type)
            {
                case ScaleType.F32: *(float*)at = MathF.ScaleB(1, -i); break;
                case ScaleType.BF16: *(BFloat16*)at = (BFloat16)MathF.ScaleB(1, -i); break;
                case ScaleType.F16: *(Half*)at = (Half)MathF.ScaleB(1, -i); break;
                default: *at = (byte)(127 - i); break;
            }
        }
        Assert.Equal([1f, 0.5f, 0.25f, 0.125f], Enumerable.Range(0, 4).Select(i => matrix.ScaleAt(0, i)));
        matrix.Storage.ValuesOwner.Dispose();
    }

    [Fact]
    public void Bf16MatricesHaveValuesOnly()
    {
        BFloat16[] values = [.. Enumerable.Range(0, 12).Select(i => (BFloat16)(i - 5.5f))];
        BlockScaledMatrix matrix = BlockScaledMatrix.CreateBf16(3, 4, values);
        var row = new float[4];
        matrix.DequantizeRow(2, row);
        Assert.Equal([2.5f, 3.5f, 4.5f, 5.5f], row);
        Assert.Equal((0, 0, 24L, ScaleType.None), (matrix.ScaleRows, matrix.ScaleColumns, matrix.Bytes, matrix.ScaleType));
        Assert.Throws<ArgumentOutOfRangeException>(() => matrix.DecodeRow(3, row));
        Assert.Throws<ArgumentOutOfRangeException>(() => matrix.ScaleAt(0, 0));
        matrix.Storage.ValuesOwner.Dispose();
    }

    [Theory]
    [InlineData(WeightFormat.Block128, 15, 1, "w needs 16 values but 15 were given.")]
    [InlineData(WeightFormat.Block128, 16, 2, "w needs 1 scales but 2 were given.")]
    [InlineData(WeightFormat.MxFp8, 16, 1, "w needs 4 scales but 1 were given.")]
    [InlineData(WeightFormat.Bf16, 16, 0, "BF16 matrices have no scales; use CreateBf16.")]
    public void WrongLengthsAreNamed(WeightFormat format, int values, int scales, string message)
    {
        var error = Assert.Throws<ArgumentException>(() =>
            BlockScaledMatrix.Create(format, 4, 4, new Float8E4M3[values], Enumerable.Repeat(1f, scales).ToArray(), "w"));
        Assert.StartsWith(message, error.Message);
    }

    [Theory]
    [InlineData(WeightFormat.MxFp8)]
    [InlineData(WeightFormat.Block128PowerOfTwo)]
    public void ScalesThatAreNoPowersOfTwoAreRefusedWhereTheyMustBe(WeightFormat format)
    {
        foreach (float scale in new[] { 3f, 0f, -1f, 1e-40f })
        {
            var error = Assert.Throws<ArgumentException>(() => BlockScaledMatrix.Create(format, 1, 1, new Float8E4M3[1], [scale], "w"));
            Assert.StartsWith($"Scale 0 of w is {scale} but scales of {format} are powers of two", error.Message);
        }
    }

    [Fact]
    public void EmptyMatricesAreRefused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => BlockScaledMatrix.Create(WeightFormat.Block128, 0, 4, [], []));
        Assert.Throws<ArgumentOutOfRangeException>(() => BlockScaledMatrix.CreateBf16(4, 0, []));
    }
}
