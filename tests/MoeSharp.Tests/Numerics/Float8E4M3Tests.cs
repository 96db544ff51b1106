namespace MoeSharp.Tests;

public class Float8E4M3Tests
{
    /// <summary>The value of a code by the definition of the format, in binary64.</summary>
    private static double Value(int code)
    {
        int exponent = (code >> 3) & 15, mantissa = code & 7;
        double magnitude = (code & 0x7F) == 0x7F ? double.NaN
            : exponent == 0 ? mantissa * Math.Pow(2, -9)
            : (8 + mantissa) * Math.Pow(2, exponent - 10);
        return code < 0x80 ? magnitude : -magnitude;
    }

    /// <summary>The nearest of all 254 finite values, the even code where two are equally near: the definition, not the bits.</summary>
    internal static byte Nearest(float x)
    {
        int sign = float.IsNegative(x) ? 0x80 : 0;
        if (float.IsNaN(x)) return (byte)(sign | 0x7F);
        double magnitude = Math.Min(Math.Abs((double)x), 448);
        int best = 0;
        for (int code = 1; code < 0x7F; code++)
        {
            double near = Math.Abs(Value(code) - magnitude), bestNear = Math.Abs(Value(best) - magnitude);
            if (near < bestNear || (near == bestNear && (code & 1) == 0)) best = code;
        }
        return (byte)(sign | best);
    }

    [Fact]
    public void EveryCodeHasTheValueOfTheDefinitionAndComesBack()
    {
        for (int code = 0; code < 256; code++)
        {
            float value = Float8E4M3.FromBits((byte)code).ToSingle();
            Assert.True(Value(code).Equals(value), $"code 0x{code:X2}: {value}");
            Assert.True(float.IsNegative(value) == code >= 0x80, $"sign of code 0x{code:X2}");
            Assert.Equal(code, Float8E4M3.FromSingle(value).Bits);
        }
    }

    [Fact]
    public void EveryBFloat16IsRoundedToTheNearestCode()
    {
        for (int bits = 0; bits < 65536; bits++)
        {
            float x = BFloat16.FromBits((ushort)bits).ToSingle();
            byte code = Float8E4M3.FromSingle(x).Bits, nearest = Nearest(x);
            Assert.True(nearest == code, $"BF16 0x{bits:X4} = {x}: 0x{code:X2}, nearest 0x{nearest:X2}");
        }
    }

    [Fact]
    public void TiesGoToTheEvenCodeAndTheirNeighboursToTheNearest()
    {
        for (int code = 0; code < 0x7E; code++)
        {
            float middle = (float)((Value(code) + Value(code + 1)) / 2); // exact
            foreach (float x in new[] { middle, MathF.BitIncrement(middle), MathF.BitDecrement(middle) })
            {
                int expected = x == middle ? code + (code & 1) : x > middle ? code + 1 : code;
                Assert.True(Nearest(x) == expected, $"oracle at {x:R}");
                Assert.True(Float8E4M3.FromSingle(x).Bits == expected, $"{x:R}, just above 0x{code:X2}: 0x{Float8E4M3.FromSingle(x).Bits:X2}");
                Assert.True(Float8E4M3.FromSingle(-x).Bits == (expected | 0x80), $"-{x:R}");
            }
        }
    }

    [Theory]
    [InlineData(0f, 0x00)]
    [InlineData(-0f, 0x80)]
    [InlineData(float.Epsilon, 0x00)]
    [InlineData(-float.Epsilon, 0x80)]
    [InlineData(448f, 0x7E)]
    [InlineData(464f, 0x7E)]
    [InlineData(float.MaxValue, 0x7E)]
    [InlineData(float.PositiveInfinity, 0x7E)]
    [InlineData(float.NegativeInfinity, 0xFE)]
    [InlineData(0.0009765625f, 0x00)]
    [InlineData(-0.0009765625f, 0x80)]
    public void ExtremesSaturateAndZerosKeepTheirSign(float x, int code) => Assert.Equal(code, Float8E4M3.FromSingle(x).Bits);

    [Theory]
    [InlineData(0x7FC00000u, 0x7F)]
    [InlineData(0xFFC00000u, 0xFF)]
    [InlineData(0x7F800001u, 0x7F)]
    [InlineData(0xFFFFFFFFu, 0xFF)]
    public void NaNKeepsItsSign(uint bits, int code) => Assert.Equal(code, Float8E4M3.FromSingle(BitConverter.UInt32BitsToSingle(bits)).Bits);
}
