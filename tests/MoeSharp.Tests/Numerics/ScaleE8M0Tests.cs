namespace MoeSharp.Tests;

public class ScaleE8M0Tests
{
    [Fact]
    public void EveryCodeIsItsPowerOfTwo()
    {
        for (int code = 0; code < 255; code++)
            Assert.True(Math.Pow(2, code - 127) == ScaleE8M0.FromBits((byte)code).ToSingle(), $"code {code}");
        Assert.True(float.IsNaN(ScaleE8M0.FromBits(255).ToSingle()));
    }

    [Fact]
    public void RoundUpGivesTheSmallestPowerNotBelow()
    {
        for (int code = 0; code < 255; code++)
        {
            float power = ScaleE8M0.FromBits((byte)code).ToSingle();
            Assert.True(ScaleE8M0.RoundUp(power).Bits == code, $"2^{code - 127}");
            Assert.True(ScaleE8M0.RoundUp(MathF.BitIncrement(power)).Bits == Math.Min(code + 1, 254), $"just above 2^{code - 127}");
            Assert.True(ScaleE8M0.RoundUp(MathF.BitDecrement(power)).Bits == code, $"just below 2^{code - 127}");
        }
    }

    [Theory]
    [InlineData(0f, 0)]
    [InlineData(float.Epsilon, 0)]
    [InlineData(float.MaxValue, 254)]
    [InlineData(float.PositiveInfinity, 255)]
    [InlineData(float.NaN, 255)]
    public void Extremes(float value, int code) => Assert.Equal(code, ScaleE8M0.RoundUp(value).Bits);
}
