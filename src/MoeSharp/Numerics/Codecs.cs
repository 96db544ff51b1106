using System.Numerics;
using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>From raw bits to FP32, one value and a vector of them; both give the same bits.</summary>
internal interface IDecoder
{
    static abstract float Decode(uint bits);
    static abstract Vector<float> Decode(Vector<int> bits);
}

/// <summary>From FP32 to raw bits, one value and a vector of them; both give the same bits.</summary>
internal interface IEncoder
{
    static abstract uint Encode(float value);
    static abstract Vector<int> Encode(Vector<float> value);
}

/// <summary>
/// The scalar twins are the structs' own conversions. Lanes are compared as signed integers, which order magnitudes as FP32 does, NaN above Inf.
/// </summary>
internal readonly struct E4M3Codec : IDecoder, IEncoder
{
    public static float Decode(uint bits) => Float8E4M3.FromBits((byte)bits).ToSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Decode(Vector<int> bits)
    {
        Vector<int> magnitude = bits & new Vector<int>(0x7F);
        Vector<int> normal = (magnitude << 20) + new Vector<int>((127 - 7) << 23);
        // Subnormal codes count multiples of 2^-9; making them FP32 subnormals on the way would be slow on some processors.
        Vector<int> subnormal = Vector.AsVectorInt32(Vector.ConvertToSingle(magnitude) * new Vector<float>(1 / 512f));
        Vector<int> value = Vector.ConditionalSelect(Vector.LessThan(magnitude, new Vector<int>(8)), subnormal, normal);
        value = Vector.ConditionalSelect(Vector.Equals(magnitude, new Vector<int>(0x7F)), new Vector<int>(0x7FC00000), value);
        return Vector.AsVectorSingle(value | ((bits & new Vector<int>(0x80)) << 24));
    }

    public static uint Encode(float value) => Float8E4M3.FromSingle(value).Bits;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<int> Encode(Vector<float> value)
    {
        Vector<int> bits = Vector.AsVectorInt32(value), all = bits & new Vector<int>(int.MaxValue);
        Vector<int> magnitude = Vector.Min(all, new Vector<int>(BitConverter.SingleToInt32Bits(Float8E4M3.MaxValue)));
        Vector<int> normal = (magnitude + new Vector<int>(0x7FFFF) + ((magnitude >>> 20) & Vector<int>.One)) >>> 20;
        normal -= new Vector<int>((127 - 7) << 3);
        // Adding 2^14 leaves the multiples of 2^-9, rounded to even.
        var magic = new Vector<float>(16384f);
        Vector<int> subnormal = Vector.AsVectorInt32(Vector.AsVectorSingle(magnitude) + magic) - Vector.AsVectorInt32(magic);
        Vector<int> small = Vector.LessThan(magnitude, new Vector<int>(BitConverter.SingleToInt32Bits(1 / 64f)));
        Vector<int> code = Vector.ConditionalSelect(small, subnormal, normal);
        code = Vector.ConditionalSelect(Vector.GreaterThan(all, new Vector<int>(0x7F800000)), new Vector<int>(0x7F), code);
        return code | ((bits >>> 24) & new Vector<int>(0x80));
    }
}

internal readonly struct BFloat16Codec : IDecoder, IEncoder
{
    public static float Decode(uint bits) => BFloat16.FromBits((ushort)bits).ToSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Decode(Vector<int> bits) => Vector.AsVectorSingle(bits << 16);

    public static uint Encode(float value) => BFloat16.FromSingle(value).Bits;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<int> Encode(Vector<float> value)
    {
        Vector<int> bits = Vector.AsVectorInt32(value), upper = bits >>> 16;
        Vector<int> rounded = (bits + new Vector<int>(0x7FFF) + (upper & Vector<int>.One)) >>> 16;
        Vector<int> nan = Vector.GreaterThan(bits & new Vector<int>(int.MaxValue), new Vector<int>(0x7F800000));
        return Vector.ConditionalSelect(nan, upper | new Vector<int>(0x40), rounded);
    }
}

/// <summary>IEEE binary16, read only: some checkpoints store scales in it. NaN stays a quiet NaN with its sign.</summary>
internal readonly struct HalfCodec : IDecoder
{
    public static float Decode(uint bits)
    {
        uint magnitude = bits & 0x7FFF, sign = (bits & 0x8000) << 16;
        uint value = magnitude switch
        {
            > 0x7C00 => (magnitude << 13) | 0x7FC00000,
            0x7C00 => 0x7F800000,
            >= 0x400 => (magnitude << 13) + ((127 - 15) << 23),
            _ => BitConverter.SingleToUInt32Bits(magnitude * (1 / 16777216f)),
        };
        return BitConverter.UInt32BitsToSingle(value | sign);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Decode(Vector<int> bits)
    {
        Vector<int> magnitude = bits & new Vector<int>(0x7FFF), shifted = magnitude << 13;
        Vector<int> subnormal = Vector.AsVectorInt32(Vector.ConvertToSingle(magnitude) * new Vector<float>(1 / 16777216f));
        Vector<int> value = Vector.ConditionalSelect(
            Vector.LessThan(magnitude, new Vector<int>(0x400)), subnormal, shifted + new Vector<int>((127 - 15) << 23));
        value = Vector.ConditionalSelect(Vector.Equals(magnitude, new Vector<int>(0x7C00)), new Vector<int>(0x7F800000), value);
        value = Vector.ConditionalSelect(Vector.GreaterThan(magnitude, new Vector<int>(0x7C00)), shifted | new Vector<int>(0x7FC00000), value);
        return Vector.AsVectorSingle(value | ((bits & new Vector<int>(0x8000)) << 16));
    }
}

internal readonly struct E8M0Codec : IDecoder
{
    public static float Decode(uint bits) => ScaleE8M0.FromBits((byte)bits).ToSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Decode(Vector<int> bits)
    {
        Vector<int> value = Vector.ConditionalSelect(Vector.Equals(bits, Vector<int>.Zero), new Vector<int>(0x00400000), bits << 23);
        int nan = BitConverter.SingleToInt32Bits(float.NaN);
        return Vector.AsVectorSingle(Vector.ConditionalSelect(Vector.Equals(bits, new Vector<int>(255)), new Vector<int>(nan), value));
    }
}
