namespace MoeSharp;

/// <summary>A power-of-two scale (UE8M0): code e means 2^(e-127); code 0 is 2^-127 and code 255 is NaN, as the OCP MX specification says.</summary>
public readonly struct ScaleE8M0 : IEquatable<ScaleE8M0>
{
    private readonly byte _bits;

    private ScaleE8M0(byte bits) => _bits = bits;

    /// <summary>The raw code.</summary>
    public byte Bits => _bits;

    /// <summary>The scale with this code.</summary>
    public static ScaleE8M0 FromBits(byte bits) => new(bits);

    /// <summary>The smallest power of two that is not below a positive finite value, clamped to codes 0..254. Infinity and NaN give 255.</summary>
    public static ScaleE8M0 RoundUp(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value) & 0x7FFFFFFF;
        if (bits >= 0x7F800000) return new(255);
        uint exponent = bits >> 23, mantissa = bits & 0x7FFFFF;
        // FP32 subnormals lie below 2^-126: at most 2^-127 keeps code 0, anything above rounds up to code 1.
        uint code = exponent == 0 ? (mantissa > 0x400000 ? 1u : 0u) : exponent + (mantissa != 0 ? 1u : 0u);
        return new((byte)Math.Min(code, 254));
    }

    /// <summary>Exact; code 0 is the FP32 subnormal 2^-127.</summary>
    public float ToSingle() => _bits switch
    {
        255 => float.NaN,
        0 => BitConverter.UInt32BitsToSingle(0x00400000),
        _ => BitConverter.UInt32BitsToSingle((uint)_bits << 23),
    };

    /// <summary>See <see cref="ToSingle"/>.</summary>
    public static implicit operator float(ScaleE8M0 value) => value.ToSingle();

    /// <inheritdoc/>
    public bool Equals(ScaleE8M0 other) => _bits == other._bits;

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is ScaleE8M0 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => _bits;

    /// <inheritdoc/>
    public override string ToString() => ToSingle().ToString();
}
