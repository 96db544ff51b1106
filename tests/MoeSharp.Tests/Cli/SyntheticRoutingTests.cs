using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>The vectors that came with the peers' tables.</summary>
public class SyntheticRoutingTests
{
    private static (int[] Ids, float[] Weights) Route(RoutingKind kind, int tokens, int experts, int topK = 8)
    {
        var ids = new int[tokens * topK];
        var weights = new float[ids.Length];
        SyntheticRouting.Fill(kind, SyntheticRouting.DefaultSeed(kind, tokens), experts, topK, ids, weights);
        return (ids, weights);
    }

    [Theory]
    [InlineData(false, 128, "46 26 57 80 63 0 16 86")]
    [InlineData(false, 256, "148 173 211 46 26 57 133 80")]
    [InlineData(true, 128, "124 21 116 33 0 99 60 83")]
    public void OneTokenGoesWhereThePeersSentIt(bool zipf, int experts, string expected) =>
        Assert.Equal(expected, string.Join(' ', Route(zipf ? RoutingKind.Zipf : RoutingKind.Uniform, 1, experts).Ids));

    [Fact]
    public void FirstWeightIsThatOfThePeers() =>
        Assert.Equal("0.10468248", Route(RoutingKind.Uniform, 1, 128).Weights[0].ToString("F8", System.Globalization.CultureInfo.InvariantCulture));

    [Theory]
    [InlineData(false, 103)]
    [InlineData(true, 77)]
    public void ThirtyTwoTokensTouchAsManyExpertsAsThePeersDid(bool zipf, int distinct) =>
        Assert.Equal(distinct, Route(zipf ? RoutingKind.Zipf : RoutingKind.Uniform, 32, 128).Ids.Distinct().Count());

    [Theory]
    [InlineData(1, 1)]
    [InlineData(5, 3)]
    [InlineData(896, 16)]
    public void WeightsSumToOneAndExpertsOfATokenDiffer(int experts, int topK)
    {
        (int[] ids, float[] weights) = Route(RoutingKind.Uniform, 7, experts, topK);
        for (int t = 0; t < 7; t++)
        {
            Assert.Equal(topK, ids.Skip(t * topK).Take(topK).Distinct().Count());
            Assert.InRange(weights.Skip(t * topK).Take(topK).Sum(), 0.99999f, 1.00001f);
        }
    }
}
