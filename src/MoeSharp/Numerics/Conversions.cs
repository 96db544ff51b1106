using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>
/// Conversions of spans, vectorised with a scalar tail; every element gets the same bits as from the scalar conversion of its type. The destination
/// must be at least as long as the source, and the two must not overlap.
/// </summary>
public static class Conversions
{
    /// <summary>Exact.</summary>
    /// <exception cref="ArgumentException">The destination is too short.</exception>
    public static void ToSingle(ReadOnlySpan<BFloat16> source, Span<float> destination) =>
        Decode<BFloat16Codec>(MemoryMarshal.Cast<BFloat16, ushort>(source), destination);

    /// <summary>Exact; NaN stays a quiet NaN with its sign.</summary>
    /// <exception cref="ArgumentException">The destination is too short.</exception>
    public static void ToSingle(ReadOnlySpan<Half> source, Span<float> destination) =>
        Decode<HalfCodec>(MemoryMarshal.Cast<Half, ushort>(source), destination);

    /// <summary>Exact; NaN keeps its sign.</summary>
    /// <exception cref="ArgumentException">The destination is too short.</exception>
    public static void ToSingle(ReadOnlySpan<Float8E4M3> source, Span<float> destination) =>
        Decode<E4M3Codec>(MemoryMarshal.AsBytes(source), destination);

    /// <summary>Exact; code 0 is 2^-127 and code 255 is NaN.</summary>
    /// <exception cref="ArgumentException">The destination is too short.</exception>
    public static void ToSingle(ReadOnlySpan<ScaleE8M0> source, Span<float> destination) =>
        Decode<E8M0Codec>(MemoryMarshal.AsBytes(source), destination);

    /// <summary>Rounds to nearest, ties to even; overflow gives infinity, NaN stays a quiet NaN with its sign.</summary>
    /// <exception cref="ArgumentException">The destination is too short.</exception>
    public static void ToBFloat16(ReadOnlySpan<float> source, Span<BFloat16> destination) =>
        Encode<BFloat16Codec>(source, MemoryMarshal.Cast<BFloat16, ushort>(destination));

    /// <summary>Rounds to nearest, ties to even, saturating to ±448 (infinities too); NaN becomes 0x7F with its sign.</summary>
    /// <exception cref="ArgumentException">The destination is too short.</exception>
    public static void ToFloat8(ReadOnlySpan<float> source, Span<Float8E4M3> destination) =>
        Encode<E4M3Codec>(source, MemoryMarshal.AsBytes(destination));

    private static void Decode<TDecoder>(ReadOnlySpan<ushort> source, Span<float> destination) where TDecoder : struct, IDecoder
    {
        RequireRoom(source.Length, destination.Length);
        ref ushort from = ref MemoryMarshal.GetReference(source);
        ref float to = ref MemoryMarshal.GetReference(destination);
        int i = 0;
        for (; Vector.IsHardwareAccelerated && i <= source.Length - Vector<ushort>.Count; i += Vector<ushort>.Count)
        {
            Vector.Widen(Vector.LoadUnsafe(ref from, (nuint)i), out Vector<uint> low, out Vector<uint> high);
            TDecoder.Decode(Vector.AsVectorInt32(low)).StoreUnsafe(ref to, (nuint)i);
            TDecoder.Decode(Vector.AsVectorInt32(high)).StoreUnsafe(ref to, (nuint)(i + Vector<float>.Count));
        }
        for (; i < source.Length; i++) destination[i] = TDecoder.Decode(source[i]);
    }

    private static void Decode<TDecoder>(ReadOnlySpan<byte> source, Span<float> destination) where TDecoder : struct, IDecoder
    {
        RequireRoom(source.Length, destination.Length);
        ref byte from = ref MemoryMarshal.GetReference(source);
        ref float to = ref MemoryMarshal.GetReference(destination);
        int i = 0;
        for (; Vector.IsHardwareAccelerated && i <= source.Length - Vector<byte>.Count; i += Vector<byte>.Count)
        {
            Vector.Widen(Vector.LoadUnsafe(ref from, (nuint)i), out Vector<ushort> low, out Vector<ushort> high);
            Store<TDecoder>(low, ref to, i);
            Store<TDecoder>(high, ref to, i + Vector<ushort>.Count);
        }
        for (; i < source.Length; i++) destination[i] = TDecoder.Decode(source[i]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store<TDecoder>(Vector<ushort> bits, ref float to, int index) where TDecoder : struct, IDecoder
    {
        Vector.Widen(bits, out Vector<uint> low, out Vector<uint> high);
        TDecoder.Decode(Vector.AsVectorInt32(low)).StoreUnsafe(ref to, (nuint)index);
        TDecoder.Decode(Vector.AsVectorInt32(high)).StoreUnsafe(ref to, (nuint)(index + Vector<float>.Count));
    }

    private static void Encode<TEncoder>(ReadOnlySpan<float> source, Span<ushort> destination) where TEncoder : struct, IEncoder
    {
        RequireRoom(source.Length, destination.Length);
        ref float from = ref MemoryMarshal.GetReference(source);
        ref ushort to = ref MemoryMarshal.GetReference(destination);
        int i = 0;
        for (; Vector.IsHardwareAccelerated && i <= source.Length - Vector<ushort>.Count; i += Vector<ushort>.Count)
            Load<TEncoder>(ref from, i).StoreUnsafe(ref to, (nuint)i);
        for (; i < source.Length; i++) destination[i] = (ushort)TEncoder.Encode(source[i]);
    }

    private static void Encode<TEncoder>(ReadOnlySpan<float> source, Span<byte> destination) where TEncoder : struct, IEncoder
    {
        RequireRoom(source.Length, destination.Length);
        ref float from = ref MemoryMarshal.GetReference(source);
        ref byte to = ref MemoryMarshal.GetReference(destination);
        int i = 0;
        for (; Vector.IsHardwareAccelerated && i <= source.Length - Vector<byte>.Count; i += Vector<byte>.Count)
            Vector.Narrow(Load<TEncoder>(ref from, i), Load<TEncoder>(ref from, i + Vector<ushort>.Count)).StoreUnsafe(ref to, (nuint)i);
        for (; i < source.Length; i++) destination[i] = (byte)TEncoder.Encode(source[i]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<ushort> Load<TEncoder>(ref float from, int index) where TEncoder : struct, IEncoder
    {
        Vector<int> low = TEncoder.Encode(Vector.LoadUnsafe(ref from, (nuint)index));
        Vector<int> high = TEncoder.Encode(Vector.LoadUnsafe(ref from, (nuint)(index + Vector<float>.Count)));
        return Vector.Narrow(Vector.AsVectorUInt32(low), Vector.AsVectorUInt32(high));
    }

    private static void RequireRoom(int source, int destination)
    {
        if (destination < source)
            throw new ArgumentException($"The destination holds {destination} elements but the source has {source}.", nameof(destination));
    }
}
