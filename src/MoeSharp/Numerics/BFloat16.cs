using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>A 16-bit brain float: the upper half of an IEEE 754 binary32. Blittable; rounding is to nearest, ties to even.</summary>
public readonly struct BFloat16 : IEquatable<BFloat16>
{
    private readonly ushort _bits;

    private BFloat16(ushort bits) => _bits = bits;

    /// <summary>The 16 raw bits: sign, 8 exponent bits, 7 mantissa bits.</summary>
    public ushort Bits => _bits;

    /// <summary>The value with these raw bits.</summary>
    public static BFloat16 FromBits(ushort bits) => new(bits);

    /// <summary>Rounds to nearest, ties to even; overflow gives infinity, NaN stays a quiet NaN with its sign.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static BFloat16 FromSingle(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        if (float.IsNaN(value)) return new((ushort)((bits >> 16) | 0x0040));
        return new((ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16));
    }

    /// <summary>Exact: every BF16 value is an FP32 value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float ToSingle() => BitConverter.UInt32BitsToSingle((uint)_bits << 16);

    /// <summary>See <see cref="FromSingle"/>.</summary>
    public static explicit operator BFloat16(float value) => FromSingle(value);

    /// <summary>See <see cref="ToSingle"/>.</summary>
    public static implicit operator float(BFloat16 value) => value.ToSingle();

    /// <summary>Bitwise equality: NaN equals itself, +0 differs from -0.</summary>
    public bool Equals(BFloat16 other) => _bits == other._bits;

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is BFloat16 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => _bits;

    /// <inheritdoc/>
    public override string ToString() => ToSingle().ToString();
}
