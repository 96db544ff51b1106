using CsCheck;

namespace MoeSharp.Tests;

public class BFloat16Tests
{
    [Fact]
    public void EveryPatternIsTheUpperHalfOfAnFp32AndComesBack()
    {
        for (int bits = 0; bits < 65536; bits++)
        {
            float value = BFloat16.FromBits((ushort)bits).ToSingle();
            Assert.True(BitConverter.SingleToUInt32Bits(value) == (uint)bits << 16, $"0x{bits:X4}");
            int quiet = float.IsNaN(value) ? bits | 0x40 : bits;
            Assert.True(BFloat16.FromSingle(value).Bits == quiet, $"0x{bits:X4} back");
        }
    }

    [Fact]
    public void TiesGoToTheEvenPatternAndTheirNeighboursToTheNearest()
    {
        for (uint bits = 0; bits < 0x7F80; bits++)
        {
            uint middle = (bits << 16) | 0x8000;
            foreach ((uint x, uint expected) in new[] { (middle, bits + (bits & 1)), (middle + 1, bits + 1), (middle - 1, bits) })
            {
                Assert.True(BFloat16.FromSingle(BitConverter.UInt32BitsToSingle(x)).Bits == expected, $"0x{x:X8}");
                Assert.True(BFloat16.FromSingle(BitConverter.UInt32BitsToSingle(x | 0x80000000)).Bits == (expected | 0x8000), $"-0x{x:X8}");
            }
        }
    }

    [Fact]
    public void EveryFp32GoesToTheNearest() => Gen.UInt.Sample(bits =>
    {
        float x = BitConverter.UInt32BitsToSingle(bits);
        BFloat16 rounded = BFloat16.FromSingle(x);
        if (float.IsNaN(x)) return float.IsNaN(rounded) && float.IsNegative(rounded) == float.IsNegative(x);
        if (float.IsInfinity(rounded)) return Math.Abs((double)x) >= 3.3961775292304601e38; // the largest BF16 plus half a unit
        double error = Math.Abs((double)x - rounded);
        return error <= Math.Abs((double)x - Next(rounded, 1)) && error <= Math.Abs((double)x - Next(rounded, -1));
    });

    /// <summary>The neighbouring pattern in magnitude; past zero and infinity, the value itself.</summary>
    private static double Next(BFloat16 value, int step)
    {
        int magnitude = Math.Clamp((value.Bits & 0x7FFF) + step, 0, 0x7F7F);
        return BFloat16.FromBits((ushort)((value.Bits & 0x8000) | magnitude)).ToSingle();
    }
}
