namespace MoeSharp.Tests;

public class AccuracyTests
{
    [Fact]
    public void FiguresFollowTheirFormulas()
    {
        Accuracy accuracy = Accuracy.Of([3f, 4f, 1f], [3f, 2f, 1f]);
        Assert.Equal(2, accuracy.MaxAbsolute);
        Assert.Equal(2 / Math.Sqrt(14), accuracy.RelativeL2, 12);
        Assert.Equal(4.0 / (26 + 14), accuracy.CalcDiff, 12);
    }

    [Fact]
    public void EqualResultsAgreeCompletely()
    {
        Assert.Equal(new Accuracy(0, 0, 0), Accuracy.Of([0f, 0f], [0f, 0f]));
        Assert.Equal(new Accuracy(0, 0, 0), Accuracy.Of([BFloat16.FromSingle(2)], [BFloat16.FromSingle(2)]));
    }

    [Theory]
    [InlineData(float.NaN, 1f)]
    [InlineData(1f, float.NaN)]
    [InlineData(float.PositiveInfinity, float.PositiveInfinity)]
    public void NoBoundAcceptsNaN(float actual, float expected)
    {
        Accuracy accuracy = Accuracy.Of([1f, actual], [1f, expected]);
        Assert.False(accuracy.CalcDiff <= double.MaxValue, $"{actual} against {expected}: {accuracy}");
        Assert.False(accuracy.MaxAbsolute <= double.MaxValue, $"{actual} against {expected}: {accuracy}");
    }

    [Fact]
    public void AnythingAgainstZerosIsFarAway() => Assert.Equal(1, Accuracy.Of([1e-20f], [0f]).CalcDiff);

    [Fact]
    public void LengthsMustAgree() => Assert.Throws<ArgumentException>(() => Accuracy.Of([1f], [1f, 2f]));
}
