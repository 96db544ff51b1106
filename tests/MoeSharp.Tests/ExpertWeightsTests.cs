namespace MoeSharp.Tests;

public class ExpertWeightsTests
{
    private const int Experts = 2, Hidden = 256, Intermediate = 192;

    /// <summary>I = 192: halves need two scale rows each, fused rows need three, of which the second straddles gate and up.</summary>
    [Theory]
    [InlineData(PackedScaleRows.PerHalf, 4)]
    [InlineData(PackedScaleRows.Fused, 3)]
    public void PackedScaleRowsPairAsTheRuleSays(PackedScaleRows rule, int scaleRows)
    {
        Float8E4M3[] w13 = Values(Experts * 2 * Intermediate * Hidden), w2 = Values(Experts * Hidden * Intermediate);
        float[] w13Scale = Scales(Experts * scaleRows * 2), w2Scale = Scales(Experts * 2 * 2);
        using var weights = ExpertWeights.FromPacked(WeightFormat.Block128, Experts, Hidden, Intermediate, w13, w13Scale, w2, w2Scale, rule);
        Assert.Equal((Experts, Hidden, Intermediate), (weights.Count, weights.HiddenSize, weights.IntermediateSize));
        Assert.Equal(rule == PackedScaleRows.Fused ? 64 : 0, weights.UpMatrices[0].RowPhase);
        var row = new float[Hidden];
        for (int e = 0; e < Experts; e++)
            for (int n = 0; n < 2 * Intermediate; n++)
            {
                bool up = n >= Intermediate;
                int scaleRow = rule == PackedScaleRows.Fused ? n / 128 : up ? 2 + (n - Intermediate) / 128 : n / 128;
                (up ? weights.UpMatrices[e] : weights.GateMatrices[e]).DequantizeRow(up ? n - Intermediate : n, row);
                for (int c = 0; c < Hidden; c++)
                {
                    float expected = w13[(e * 2 * Intermediate + n) * Hidden + c].ToSingle() * w13Scale[(e * scaleRows + scaleRow) * 2 + c / 128];
                    Assert.True(row[c] == expected, $"{rule}, expert {e}, fused row {n}, column {c}: {row[c]}, expected {expected}");
                }
            }
        var down = new float[Intermediate];
        for (int e = 0; e < Experts; e++)
            for (int n = 0; n < Hidden; n++)
            {
                weights.DownMatrices[e].DequantizeRow(n, down);
                for (int c = 0; c < Intermediate; c++)
                {
                    float expected = w2[(e * Hidden + n) * Intermediate + c].ToSingle() * w2Scale[(e * 2 + n / 128) * 2 + c / 128];
                    Assert.True(down[c] == expected, $"{rule}, expert {e}, down ({n}, {c}): {down[c]}, expected {expected}");
                }
            }
    }

    [Fact]
    public void TheRulesAgreeWhereIIsAMultipleOf128()
    {
        Float8E4M3[] w13 = Values(2 * 256 * 128), w2 = Values(128 * 256);
        float[] w13Scale = Scales(4), w2Scale = Scales(2);
        using var half = ExpertWeights.FromPacked(WeightFormat.Block128, 1, 128, 256, w13, w13Scale, w2, w2Scale);
        using var fused = ExpertWeights.FromPacked(WeightFormat.Block128, 1, 128, 256, w13, w13Scale, w2, w2Scale, PackedScaleRows.Fused);
        float[] a = new float[128], b = new float[128];
        for (int n = 0; n < 256; n++)
        {
            half.UpMatrices[0].DequantizeRow(n, a);
            fused.UpMatrices[0].DequantizeRow(n, b);
            Assert.Equal(a, b);
        }
    }

    [Theory]
    [InlineData(PackedScaleRows.PerHalf)]
    [InlineData(PackedScaleRows.Fused)]
    public void PackedMxFp8HasAScaleRowPerRow(PackedScaleRows rule)
    {
        const int hidden = 64, intermediate = 96;
        float[] scales = [.. Enumerable.Range(0, 2 * intermediate * 2).Select(i => MathF.ScaleB(1, i % 20 - 10))];
        float[] downScales = [.. Enumerable.Repeat(1f, hidden * 3)];
        Float8E4M3[] w13 = Values(2 * intermediate * hidden), w2 = Values(hidden * intermediate);
        using var weights = ExpertWeights.FromPacked(WeightFormat.MxFp8, 1, hidden, intermediate, w13, scales, w2, downScales, rule);
        for (int n = 0; n < intermediate; n++)
            for (int b = 0; b < 2; b++)
            {
                Assert.Equal(scales[n * 2 + b], weights.GateMatrices[0].ScaleAt(n, b));
                Assert.Equal(scales[(intermediate + n) * 2 + b], weights.UpMatrices[0].ScaleAt(n, b));
            }
    }

    [Theory]
    [InlineData(1, 0, 0, 0, "w13 needs 196608 elements but 196609 were given.")]
    [InlineData(0, 1, 0, 0, "w13Scale needs 16 elements but 17 were given.")]
    [InlineData(0, 0, 1, 0, "w2 needs 98304 elements but 98305 were given.")]
    [InlineData(0, 0, 0, 1, "w2Scale needs 8 elements but 9 were given.")]
    public void PackedLengthsAreChecked(int w13, int w13Scale, int w2, int w2Scale, string message)
    {
        var error = Assert.Throws<ArgumentException>(() => ExpertWeights.FromPacked(WeightFormat.Block128, Experts, Hidden, Intermediate,
            new Float8E4M3[196608 + w13], new float[16 + w13Scale], new Float8E4M3[98304 + w2], new float[8 + w2Scale]));
        Assert.StartsWith(message, error.Message);
    }

    [Fact]
    public void MatricesThatDoNotFitAreNamed()
    {
        Refused(Matrix(4, 8, "g"), Matrix(4, 9, "u"), Matrix(8, 4, "d"),
            "up of expert 0 (u) is [4, 9] but [4, 8] is needed to match gate of expert 0.");
        Refused(Matrix(4, 8, "g"), Matrix(4, 8, "u"), Matrix(4, 8, "d"),
            "down of expert 0 (d) is [4, 8] but [8, 4] is needed to match gate of expert 0.");
        BlockScaledMatrix bf16 = BlockScaledMatrix.CreateBf16(8, 4, new BFloat16[32], "d");
        Refused(Matrix(4, 8, "g"), Matrix(4, 8, "u"), bf16,
            "down of expert 0 (d) is Bf16 but gate of expert 0 is Block128; one layer has one format.");
        Assert.StartsWith("At least one expert is needed.", Assert.Throws<ArgumentException>(() => new ExpertWeights([], [], [])).Message);
        var counts = Assert.Throws<ArgumentException>(() => new ExpertWeights([Matrix(4, 8, "g")], [], [Matrix(8, 4, "d")]));
        Assert.Equal("There are 1 gate, 0 up and 1 down matrices; the counts must be equal.", counts.Message);

        static void Refused(BlockScaledMatrix gate, BlockScaledMatrix up, BlockScaledMatrix down, string message) =>
            Assert.Equal(message, Assert.Throws<ArgumentException>(() => new ExpertWeights([gate], [up], [down])).Message);
    }

    [Fact]
    public void BiasesMustHaveOneValuePerOutput()
    {
        var error = Assert.Throws<ArgumentException>(() =>
            new ExpertWeights([Matrix(4, 8, "g")], [Matrix(4, 8, "u")], [Matrix(8, 4, "d")], new(new float[4], new float[3], new float[8])));
        Assert.Equal("Biases need 1 x 4 gate, as many up and 1 x 8 down values but 4, 3 and 8 were given.", error.Message);
    }

    [Fact]
    public void DisposingTwiceReleasesOnce()
    {
        BlockScaledMatrix gate = Matrix(4, 8, "g");
        var weights = new ExpertWeights([gate], [Matrix(4, 8, "u")], [Matrix(8, 4, "d")]);
        weights.Dispose();
        weights.Dispose();
        Assert.True(gate.Storage.ValuesOwner.IsClosed);
    }

    private static BlockScaledMatrix Matrix(int rows, int columns, string name) =>
        BlockScaledMatrix.Create(WeightFormat.Block128, rows, columns, new Float8E4M3[rows * columns], [1f], name);

    private static Float8E4M3[] Values(int count) => [.. Enumerable.Range(0, count).Select(i => Float8E4M3.FromBits((byte)(i * 31 % 127)))];

    private static float[] Scales(int count) => [.. Enumerable.Range(0, count).Select(i => 0.25f + i)];
}
