namespace MoeSharp.Tests;

public class NaNCodesTests
{
    [Fact]
    public void TheFirstNaNIsFoundWhereverItIs()
    {
        const int rows = 5, columns = 131;
        var values = new Float8E4M3[rows * columns];
        for (int i = 0; i < values.Length; i++) values[i] = Float8E4M3.FromBits((byte)((i * 7 % 127) | (i % 2 << 7)));
        using (var none = Experts(values)) Assert.Null(NaNCodes.Find(none.Gate[0]));
        foreach (byte code in new byte[] { 0x7F, 0xFF })
            for (int at = 0; at < values.Length; at += 13)
            {
                Float8E4M3[] damaged = [.. values];
                damaged[at] = Float8E4M3.FromBits(code);
                if (at + 1 < values.Length) damaged[at + 1] = Float8E4M3.FromBits(0x7F);
                using ExpertWeights weights = Experts(damaged);
                Assert.Equal((at / columns, at % columns), NaNCodes.Find(weights.Gate[0]));
            }

        static ExpertWeights Experts(Float8E4M3[] gate) => new(
            [BlockScaledMatrix.Create(WeightFormat.Block128, rows, columns, gate, [1f, 1f])],
            [BlockScaledMatrix.Create(WeightFormat.Block128, rows, columns, new Float8E4M3[rows * columns], [1f, 1f])],
            [BlockScaledMatrix.Create(WeightFormat.Block128, columns, rows, new Float8E4M3[rows * columns], [1f, 1f])]);
    }

    [Theory]
    [InlineData(0, "gate")]
    [InlineData(1, "up")]
    [InlineData(2, "down")]
    public void TheMessageNamesTensorExpertBlockAndCode(int which, string what)
    {
        const int hidden = 256, intermediate = 160;
        BlockScaledMatrix[][] all = [new BlockScaledMatrix[3], new BlockScaledMatrix[3], new BlockScaledMatrix[3]];
        for (int m = 0; m < 3; m++)
            for (int e = 0; e < 3; e++)
            {
                int rows = m == 2 ? hidden : intermediate, columns = m == 2 ? intermediate : hidden;
                var values = new Float8E4M3[rows * columns];
                if (m == which && e == 2) values[130 * columns + 140] = Float8E4M3.FromBits(0xFF);
                all[m][e] = BlockScaledMatrix.Create(WeightFormat.Block128, rows, columns, values, [1f, 1f, 1f, 1f], $"layer.{e}.{m}.weight");
            }
        using var weights = new ExpertWeights(all[0], all[1], all[2]);
        var error = Assert.Throws<CheckpointException>(() => NaNCodes.Check(weights));
        Assert.Equal(
            $"layer.2.{which}.weight ({what} of expert 2) holds the NaN code 0xFF at row 130, column 140, in scale block (1, 1); " +
            "AllowNaNWeights accepts NaN weights.",
            error.Message);
    }

    [Fact]
    public void Bf16MatricesAndCleanWeightsPass()
    {
        BlockScaledMatrix Matrix() => BlockScaledMatrix.CreateBf16(2, 2, [BFloat16.FromBits(0x7F7F), BFloat16.FromBits(0xFFFF), default, default]);
        using var weights = new ExpertWeights([Matrix()], [Matrix()], [Matrix()]);
        NaNCodes.Check(weights);
        Assert.Null(NaNCodes.Find(weights.Gate[0]));
    }
}
