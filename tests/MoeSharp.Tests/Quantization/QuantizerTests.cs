namespace MoeSharp.Tests;

public class QuantizerTests
{
    private static readonly ScaleE8M0[] Example = [.. new byte[] { 0x78, 0x78, 0x77, 0x79, 0x76 }.Select(ScaleE8M0.FromBits)];

    [Fact]
    public void FiveScalesPackIntoTwoWords()
    {
        var words = new int[Quantizer.PackedWords(1, 5)];
        words.AsSpan().Fill(-1);
        Quantizer.PackScales(Example, 1, 5, words);
        Assert.Equal([0x79777878, 0, 0, 0, 0x76, 0, 0, 0], words);
        float[] wide = [.. Example.Select(s => s.ToSingle())];
        words.AsSpan().Fill(-1);
        Quantizer.PackScales(wide, 1, 5, words);
        Assert.Equal([0x79777878, 0, 0, 0, 0x76, 0, 0, 0], words);
    }

    [Theory]
    [InlineData(0, 3)]
    [InlineData(3, 4)]
    [InlineData(4, 1)]
    [InlineData(127, 56)]
    [InlineData(253, 5)]
    public void EveryByteIsAtItsPlace(int rows, int groups)
    {
        ScaleE8M0[] scales = [.. Enumerable.Range(0, rows * groups).Select(i => ScaleE8M0.FromBits((byte)(i * 37 + 1)))];
        var words = new int[Quantizer.PackedWords(rows, groups)];
        words.AsSpan().Fill(-1);
        Quantizer.PackScales(scales, rows, groups, words);
        int stride = (rows + 3) / 4 * 4;
        for (int word = 0; word < words.Length; word++)
            for (int b = 0; b < 4; b++)
            {
                int row = word % stride, group = word / stride * 4 + b;
                int expected = row < rows && group < groups ? scales[row * groups + group].Bits : 0;
                Assert.True(((words[word] >> (8 * b)) & 255) == expected, $"rows {rows}, groups {groups}, word {word}, byte {b}");
            }
    }

    /// <summary>The shapes that published kernels are tested with: power-of-two scales with the floor, packed, in groups of 128 and of 32.</summary>
    [Theory]
    [InlineData(4, 7168)]
    [InlineData(1, 7168)]
    [InlineData(3, 640)]
    [InlineData(4, 768)]
    [InlineData(1, 384)]
    [InlineData(127, 7168)]
    [InlineData(253, 640)]
    public void QuantizedRowsPackExactly(int rows, int hidden)
    {
        var random = new Random(rows + hidden);
        BFloat16[] states = new BFloat16[rows * hidden];
        for (int i = 0; i < states.Length; i++) states[i] = (BFloat16)(MathF.ScaleB(random.NextSingle() - 0.5f, i / 32 % 40 - 20));
        states.AsSpan(0, 128).Clear();
        states[hidden - 1] = (BFloat16)672f; // 1.5 * 448: the mantissa rounds the exponent up
        foreach (int group in new[] { 32, 128 })
        {
            int groups = hidden / group, stride = (rows + 3) / 4 * 4;
            var scales = new float[rows * groups];
            for (int r = 0; r < rows; r++)
                ActivationQuantizer.QuantizeRow(states.AsSpan(r * hidden, hidden), QuantizationRule.Input, true, group,
                    new Float8E4M3[hidden], scales.AsSpan(r * groups, groups));
            var words = new int[Quantizer.PackedWords(rows, groups)];
            words.AsSpan().Fill(-1);
            Quantizer.PackScales(scales, rows, groups, words);
            Assert.Equal(0x5E, words[0] & 255);
            Assert.Equal(128, (words[(groups - 1) / 4 * stride] >> ((groups - 1) % 4 * 8)) & 255);
            for (int i = 0; i < words.Length * 4; i++)
            {
                int row = i / 4 % stride, g = i / 4 / stride * 4 + i % 4, expected = 0;
                if (row < rows && g < groups)
                {
                    float absMax = states.AsSpan(row * hidden + g * group, group).ToArray().Max(x => Math.Abs(x.ToSingle()));
                    expected = 127 + (int)Math.Ceiling(Math.Log2(Math.Max(absMax / 448.0, 1e-10)));
                }
                int actual = (words[i / 4] >> (i % 4 * 8)) & 255;
                Assert.True(actual == expected, $"[{rows}, {hidden}] in groups of {group}, row {row}, group {g}: byte {actual}, expected {expected}");
            }
        }
    }

    [Fact]
    public void SinglePrecisionExtremesPackAsTheirBytes()
    {
        var words = new int[4];
        Quantizer.PackScales([0f, MathF.ScaleB(1, 127), float.PositiveInfinity, MathF.ScaleB(1, -127)], 1, 4, words);
        Assert.Equal(0x00FFFE00, words[0]);
    }

    [Theory]
    [InlineData(3f)]
    [InlineData(-1f)]
    [InlineData(1e-40f)]
    public void OnlyPowersOfTwoPack(float scale)
    {
        var error = Assert.Throws<ArgumentException>(() => Quantizer.PackScales([1f, 1f, 1f, scale], 2, 2, new int[4]));
        Assert.StartsWith($"Scale 1 of row 1 is {scale}, not a power of two", error.Message);
    }

    [Fact]
    public void WrongLengthsAreNamed()
    {
        var scalesError = Assert.Throws<ArgumentException>(() => Quantizer.PackScales(Example, 2, 3, new int[4]));
        Assert.StartsWith("scales has 5 elements but 2 rows x 3 groups need 6.", scalesError.Message);
        var wordsError = Assert.Throws<ArgumentException>(() => Quantizer.PackScales(Example, 1, 5, new int[7]));
        Assert.StartsWith("words has 7 elements but 8 are needed.", wordsError.Message);
        Quantize(5, 2, 4, 1, "hidden has 5 elements, not a multiple of the hidden size 2.");
        Quantize(4, 2, 3, 2, "codes has 3 elements but hidden has 4; both are [T, H].");
        Quantize(4, 2, 4, 3, "scales has 3 elements but 2 tokens x 1 groups need 2.");
        Assert.Throws<ArgumentException>(() => Quantizer.QuantizeHidden(new BFloat16[4], 2, WeightFormat.MxFp8, new Float8E4M3[4], new float[2]));
        Assert.Throws<ArgumentException>(() => Quantizer.QuantizeHidden(new BFloat16[4], 2, WeightFormat.Bf16, new Float8E4M3[4], new float[2]));

        static void Quantize(int hidden, int size, int codes, int scales, string message)
        {
            Assert.StartsWith(message, Assert.Throws<ArgumentException>(() =>
                Quantizer.QuantizeHidden(new BFloat16[hidden], size, WeightFormat.Block128, new Float8E4M3[codes], new float[scales])).Message);
            Assert.StartsWith(message, Assert.Throws<ArgumentException>(() =>
                Quantizer.QuantizeHidden(new BFloat16[hidden], size, new Float8E4M3[codes], new ScaleE8M0[scales])).Message);
        }
    }

    [Theory]
    [InlineData(1, 128)]
    [InlineData(3, 200)]
    [InlineData(2, 33)]
    public void RowsAreQuantizedAsTheLayerDoes(int tokens, int hidden)
    {
        var random = new Random(hidden);
        BFloat16[] states = [.. Enumerable.Range(0, tokens * hidden).Select(_ => (BFloat16)(random.NextSingle() - 0.5f))];
        int groups = Formats.Blocks(hidden, 128), mxGroups = Formats.Blocks(hidden, 32);
        Float8E4M3[] codes = new Float8E4M3[states.Length], rowCodes = new Float8E4M3[hidden];
        float[] scales = new float[tokens * groups], rowScales = new float[groups];
        ScaleE8M0[] bytes = new ScaleE8M0[tokens * mxGroups], rowBytes = new ScaleE8M0[mxGroups];
        foreach (WeightFormat format in new[] { WeightFormat.Block128, WeightFormat.Block128PowerOfTwo })
        {
            Quantizer.QuantizeHidden(states, hidden, format, codes, scales);
            for (int t = 0; t < tokens; t++)
            {
                bool powerOfTwo = format == WeightFormat.Block128PowerOfTwo;
                ReadOnlySpan<BFloat16> row = states.AsSpan(t * hidden, hidden);
                ActivationQuantizer.QuantizeRowScalar(row, QuantizationRule.Input, powerOfTwo, 128, rowCodes, rowScales);
                Assert.Equal(rowCodes, codes.AsSpan(t * hidden, hidden).ToArray());
                Assert.Equal(rowScales, scales.AsSpan(t * groups, groups).ToArray());
            }
        }
        Quantizer.QuantizeHidden(states, hidden, codes, bytes);
        for (int t = 0; t < tokens; t++)
        {
            ActivationQuantizer.QuantizeRowMxScalar(states.AsSpan(t * hidden, hidden), rowCodes, rowBytes);
            Assert.Equal(rowCodes, codes.AsSpan(t * hidden, hidden).ToArray());
            Assert.Equal(rowBytes, bytes.AsSpan(t * mxGroups, mxGroups).ToArray());
        }
    }
}
