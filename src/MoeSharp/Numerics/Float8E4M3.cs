using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>
/// The 8-bit float of FP8 checkpoints (E4M3FN): sign, 4 exponent bits with bias 7, 3 mantissa bits. Largest value 448 (0x7E), no infinity,
/// NaN is 0x7F and 0xFF, smallest subnormal 2^-9.
/// </summary>
public readonly struct Float8E4M3 : IEquatable<Float8E4M3>
{
    private readonly byte _bits;

    private Float8E4M3(byte bits) => _bits = bits;

    /// <summary>The largest finite value.</summary>
    public const float MaxValue = 448f;

    /// <summary>The raw code.</summary>
    public byte Bits => _bits;

    /// <summary>The value with this code.</summary>
    public static Float8E4M3 FromBits(byte bits) => new(bits);

    /// <summary>Rounds to nearest, ties to even, saturating to ±448 (infinities too); NaN becomes 0x7F with its sign.</summary>
    public static Float8E4M3 FromSingle(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        uint sign = (bits >> 24) & 0x80;
        if (float.IsNaN(value)) return new((byte)(sign | 0x7F));
        float magnitude = MathF.Min(MathF.Abs(value), MaxValue);
        if (magnitude < 0.015625f) // below 2^-6 the codes are multiples of 2^-9; adding 2^14 leaves just those bits, rounded to even
        {
            uint code = BitConverter.SingleToUInt32Bits(magnitude + 16384f) - BitConverter.SingleToUInt32Bits(16384f);
            return new((byte)(sign | code));
        }
        uint m = BitConverter.SingleToUInt32Bits(magnitude);
        m += 0x7FFFF + ((m >> 20) & 1);
        return new((byte)(sign | ((m >> 20) - ((127 - 7) << 3))));
    }

    /// <summary>Exact: every E4M3 value is an FP32 value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float ToSingle()
    {
        uint magnitude = _bits & 0x7Fu;
        uint sign = (uint)(_bits & 0x80) << 24;
        if (magnitude == 0x7F) return BitConverter.UInt32BitsToSingle(sign | 0x7FC00000);
        // The code's exponent and mantissa, moved into an FP32 pattern, are the value times 2^-120, subnormals included.
        float scaled = BitConverter.UInt32BitsToSingle(magnitude << 20) * 1.329227995784916e36f;
        return BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(scaled) | sign);
    }

    /// <summary>See <see cref="FromSingle"/>.</summary>
    public static explicit operator Float8E4M3(float value) => FromSingle(value);

    /// <summary>See <see cref="ToSingle"/>.</summary>
    public static implicit operator float(Float8E4M3 value) => value.ToSingle();

    /// <summary>Equality of codes: NaN equals itself, +0 differs from -0.</summary>
    public bool Equals(Float8E4M3 other) => _bits == other._bits;

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is Float8E4M3 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => _bits;

    /// <inheritdoc/>
    public override string ToString() => ToSingle().ToString();
}
