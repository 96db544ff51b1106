namespace MoeSharp;

/// <summary>How the bits of an E4M3 code lie in <see cref="TileOrder.Quads"/>: sign, the lower four of the other seven, the upper three. Eight bits from a code's first on, and eight from the one before it on, are then the
/// upper half of an FP32 number, but for bits between that do not belong to it.</summary>
internal static class QuadCode
{
    /// <summary>Moving its bits makes of a code its value / 2^8.</summary>
    public const int Exponent = 8;
    public const float Scale = 1 << Exponent;

    /// <summary>What is 0 of a code that is zero or subnormal.</summary>
    public const uint ExponentMask = 0x47;

    public static byte Of(byte code) => (byte)Of((uint)code);

    /// <summary>The same for four codes.</summary>
    public static uint Of(uint codes) => codes & 0x80808080 | (codes & 0x0F0F0F0F) << 3 | codes >> 4 & 0x07070707;

    /// <summary>Which bits of two quads become two pairs of BF16 numbers, for VPMULTISHIFTQB: the first bit of each byte.</summary>
    /// <param name="pair">0 or 1.</param>
    public static ulong PairShifts(int pair) => Shifts(2 * pair) >> 16 | Shifts(2 * pair + 1);

    /// <summary>Which bits of two quads become two FP32 numbers, for VPMULTISHIFTQB: the first bit of each byte.</summary>
    /// <param name="k">Which of the four.</param>
    public static ulong Shifts(int k)
    {
        ulong shifts = 0;
        for (int quad = 0; quad < 64; quad += 32)
            shifts |= ((ulong)(quad + 8 * k) << 24 | (ulong)(quad + 8 * k - 1 & 63) << 16) << quad;
        return shifts;
    }
}
