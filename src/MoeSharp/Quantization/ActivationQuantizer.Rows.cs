using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace MoeSharp;

internal static partial class ActivationQuantizer
{
    /// <summary>Fills ⌈length / group⌉ scales and as many codes as the row has values; bit for bit what the scalar twin gives.</summary>
    /// <param name="group">128 or 32.</param>
    [SkipLocalsInit]
    public static void QuantizeRow(
        ReadOnlySpan<BFloat16> row, QuantizationRule rule, bool powerOfTwo, int group, Span<Float8E4M3> codes, Span<float> scales)
    {
        Span<float> values = stackalloc float[group];
        for (int first = 0, g = 0; first < row.Length; first += group, g++)
        {
            Span<float> part = values[..Math.Min(group, row.Length - first)];
            Conversions.ToSingle(row.Slice(first, part.Length), part);
            QuantizeRow(part, rule, powerOfTwo, group, codes.Slice(first, part.Length), scales.Slice(g, 1));
        }
    }

    /// <summary>The same for values that are BF16 numbers held in FP32.</summary>
    public static void QuantizeRow(
        ReadOnlySpan<float> row, QuantizationRule rule, bool powerOfTwo, int group, Span<Float8E4M3> codes, Span<float> scales)
    {
        for (int first = 0, g = 0; first < row.Length; first += group, g++)
        {
            ReadOnlySpan<float> part = row.Slice(first, Math.Min(group, row.Length - first));
            scales[g] = Scale(AbsMax(part), rule, powerOfTwo);
            Divide(part, scales[g], MemoryMarshal.AsBytes(codes.Slice(first, part.Length)));
        }
    }

    /// <summary>MXFP8: groups of 32, scales without a floor.</summary>
    [SkipLocalsInit]
    public static void QuantizeRowMx(ReadOnlySpan<BFloat16> row, Span<Float8E4M3> codes, Span<ScaleE8M0> scales)
    {
        Span<float> values = stackalloc float[MxGroup];
        for (int first = 0, g = 0; first < row.Length; first += MxGroup, g++)
        {
            Span<float> part = values[..Math.Min(MxGroup, row.Length - first)];
            Conversions.ToSingle(row.Slice(first, part.Length), part);
            QuantizeRowMx(part, codes.Slice(first, part.Length), scales.Slice(g, 1));
        }
    }

    /// <summary>The same for FP32 values.</summary>
    public static void QuantizeRowMx(ReadOnlySpan<float> row, Span<Float8E4M3> codes, Span<ScaleE8M0> scales)
    {
        for (int first = 0, g = 0; first < row.Length; first += MxGroup, g++)
        {
            ReadOnlySpan<float> part = row.Slice(first, Math.Min(MxGroup, row.Length - first));
            scales[g] = ScaleE8M0.RoundUp(AbsMax(part) / Float8E4M3.MaxValue);
            Divide(part, Divisor(scales[g]), MemoryMarshal.AsBytes(codes.Slice(first, part.Length)));
        }
    }

    /// <summary>The largest magnitude, NaN not counting: as integers magnitudes order as numbers do, and any NaN lies above Inf.</summary>
    internal static float AbsMax(ReadOnlySpan<float> values)
    {
        ref float from = ref MemoryMarshal.GetReference(values);
        Vector<int> lanes = Vector<int>.Zero, magnitude = new(int.MaxValue);
        int i = 0, max = 0;
        for (; Vector.IsHardwareAccelerated && i <= values.Length - Vector<float>.Count; i += Vector<float>.Count)
            lanes = Vector.Max(lanes, Vector.AsVectorInt32(Vector.LoadUnsafe(ref from, (nuint)i)) & magnitude);
        for (int lane = 0; lane < Vector<int>.Count; lane++) max = Math.Max(max, lanes[lane]);
        for (; i < values.Length; i++) max = Math.Max(max, BitConverter.SingleToInt32Bits(values[i]) & int.MaxValue);
        return max <= 0x7F800000 ? BitConverter.Int32BitsToSingle(max) : AbsMaxScalar(values);
    }

    /// <summary>Codes of value / scale. The division is a real one: a reciprocal would move results across rounding boundaries.</summary>
    internal static void Divide(ReadOnlySpan<float> values, float scale, Span<byte> codes)
    {
        ref float from = ref MemoryMarshal.GetReference(values);
        ref byte to = ref MemoryMarshal.GetReference(codes);
        int i = 0;
        for (; Vector.IsHardwareAccelerated && i <= values.Length - Vector<byte>.Count; i += Vector<byte>.Count)
        {
            Vector<ushort> low = Quotients(ref from, i, scale), high = Quotients(ref from, i + Vector<ushort>.Count, scale);
            Vector.Narrow(low, high).StoreUnsafe(ref to, (nuint)i);
        }
        for (; i < values.Length; i++) codes[i] = Quotient(values[i], scale).Bits;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<ushort> Quotients(ref float from, int index, float scale)
    {
        Vector<int> low = Quotient(Vector.LoadUnsafe(ref from, (nuint)index), scale);
        Vector<int> high = Quotient(Vector.LoadUnsafe(ref from, (nuint)(index + Vector<float>.Count)), scale);
        return Vector.Narrow(Vector.AsVectorUInt32(low), Vector.AsVectorUInt32(high));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<int> Quotient(Vector<float> value, float scale) =>
        (E4M3Codec.Encode(value / new Vector<float>(scale)) & new Vector<int>(0x7F)) | ((Vector.AsVectorInt32(value) >>> 24) & new Vector<int>(0x80));
}
