using MoeSharp.Cli;

namespace MoeSharp.Tests;

public class SyntheticWeightsTests
{
    [Theory]
    [InlineData(WeightFormat.Block128)]
    [InlineData(WeightFormat.MxFp8)]
    [InlineData(WeightFormat.Bf16)]
    public void MatricesHaveTheAnnouncedBytesAndRowsOfLengthAboutOne(WeightFormat format)
    {
        BenchShape shape = BenchShape.Parse("3,2,192,320");
        using ExpertWeights weights = SyntheticWeights.Create(shape, format, TestContext.Current.CancellationToken);
        BlockScaledMatrix[] all = [.. weights.Gate, .. weights.Up, .. weights.Down];
        Assert.Equal(SyntheticWeights.Bytes(shape, format), all.Sum(matrix => matrix.Bytes));
        foreach (BlockScaledMatrix matrix in all)
        {
            var row = new float[matrix.Columns];
            double squares = 0;
            for (int r = 0; r < matrix.Rows; r++)
            {
                matrix.DequantizeRow(r, row);
                Assert.All(row, value => Assert.True(float.IsFinite(value), $"{matrix.Name} row {r}"));
                squares += row.Sum(value => (double)value * value);
            }
            Assert.InRange(Math.Sqrt(squares / matrix.Rows), 0.6, 2.0);
        }
    }

    [Fact]
    public void ExpertsDifferAndRunsRepeat()
    {
        BenchShape shape = BenchShape.Parse("2,1,64,64");
        using ExpertWeights first = SyntheticWeights.Create(shape, WeightFormat.Block128, TestContext.Current.CancellationToken);
        using ExpertWeights second = SyntheticWeights.Create(shape, WeightFormat.Block128, TestContext.Current.CancellationToken);
        Assert.Equal(Row(first.Up[1]), Row(second.Up[1]));
        Assert.NotEqual(Row(first.Up[0]), Row(first.Up[1]));
        Assert.NotEqual(Row(first.Gate[0]), Row(first.Up[0]));

        static byte[] Row(BlockScaledMatrix matrix) => matrix.Row(5).ToArray();
    }

    [Fact]
    public void AnExpertParallelRankHoldsTheFirstExpertsAndMapsTheOthersAway()
    {
        BenchShape shape = BenchShape.Parse("deepseek-v3-ep8");
        Assert.Equal(32, shape.LocalExperts);
        int[] map = shape.ExpertMap();
        Assert.Equal(256, map.Length);
        Assert.Equal(Enumerable.Range(0, 32), map.Take(32));
        Assert.All(map.Skip(32), local => Assert.Equal(-1, local));
    }

    [Fact]
    public void EveryNamedShapeParsesToItself() =>
        Assert.All(BenchShape.Named, shape => Assert.Same(shape, BenchShape.Parse(shape.Name)));
}
