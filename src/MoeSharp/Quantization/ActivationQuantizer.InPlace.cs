using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace MoeSharp;

internal static partial class ActivationQuantizer
{
    /// <summary>Replaces a group's values by what their codes stand for; returns the scale. The same numbers as <see cref="QuantizeRow(ReadOnlySpan{float},
    /// QuantizationRule, bool, int, Span{Float8E4M3}, Span{float})"/> and decoding, without codes between.</summary>
    public static float RoundToE4M3(Span<float> group, QuantizationRule rule, bool powerOfTwo)
    {
        float scale = Scale(AbsMax(group), rule, powerOfTwo);
        RoundQuotients(group, scale, 1);
        return scale;
    }

    /// <summary>The same for MXFP8 groups, one or several, the scale multiplied in.</summary>
    public static void RoundToE4M3Mx(Span<float> groups)
    {
        for (int first = 0; first < groups.Length; first += MxGroup)
        {
            Span<float> group = groups.Slice(first, Math.Min(MxGroup, groups.Length - first));
            ScaleE8M0 scale = ScaleE8M0.RoundUp(AbsMax(group) / Float8E4M3.MaxValue);
            RoundQuotients(group, Divisor(scale), scale.ToSingle());
        }
    }

    /// <summary>E4M3(value / divisor) * factor.</summary>
    private static void RoundQuotients(Span<float> values, float divisor, float factor)
    {
        ref float first = ref MemoryMarshal.GetReference(values);
        var divisors = new Vector<float>(divisor);
        var factors = new Vector<float>(factor);
        int i = 0;
        for (; Vector.IsHardwareAccelerated && i <= values.Length - Vector<float>.Count; i += Vector<float>.Count)
        {
            Vector<float> value = Vector.LoadUnsafe(ref first, (nuint)i);
            (RoundMagnitude(value / divisors) * factors | Sign(value)).StoreUnsafe(ref first, (nuint)i);
        }
        for (; i < values.Length; i++) values[i] = Quotient(values[i], divisor).ToSingle() * factor;
    }

    private static Vector<float> Sign(Vector<float> value) => Vector.AsVectorSingle(Vector.AsVectorInt32(value) & new Vector<int>(int.MinValue));

    /// <summary>The nearest E4M3 magnitude, ties to even: four significant bits, or multiples of 2^-9 below 2^-6; at most 448; NaN stays.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<float> RoundMagnitude(Vector<float> value)
    {
        Vector<int> all = Vector.AsVectorInt32(value) & new Vector<int>(int.MaxValue);
        Vector<int> magnitude = Vector.Min(all, new Vector<int>(BitConverter.SingleToInt32Bits(Float8E4M3.MaxValue)));
        Vector<int> normal = magnitude + new Vector<int>(0x7FFFF) + ((magnitude >>> 20) & Vector<int>.One) & new Vector<int>(~0xFFFFF);
        var magic = new Vector<float>(16384f); // adding it leaves multiples of 2^-9
        Vector<float> subnormal = Vector.AsVectorSingle(magnitude) + magic - magic;
        Vector<int> isSmall = Vector.LessThan(magnitude, new Vector<int>(BitConverter.SingleToInt32Bits(1 / 64f)));
        Vector<float> rounded = Vector.ConditionalSelect(isSmall, subnormal, Vector.AsVectorSingle(normal));
        Vector<int> isNaN = Vector.GreaterThan(all, new Vector<int>(0x7F800000));
        return Vector.ConditionalSelect(isNaN, new Vector<float>(float.NaN), rounded);
    }
}
