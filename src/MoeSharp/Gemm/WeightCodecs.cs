using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MoeSharp;

/// <summary>
/// How a kernel turns packed weights [k, 32] into FP32, exactly. Two steps of K at a time, since some decode 64 codes as cheaply as 32.
/// </summary>
internal unsafe interface IWeightCodec
{
    /// <summary>Bytes of one packed value.</summary>
    static abstract int ValueBytes { get; }
    /// <summary>Two vectors of the first step; returns what <see cref="Second"/> goes on with.</summary>
    static abstract T First<T>(byte* source, byte* tables, out T a, out T b) where T : unmanaged, ISimd<T>;
    /// <summary>Two vectors of the second step.</summary>
    static abstract void Second<T>(byte* source, T rest, out T a, out T b) where T : unmanaged, ISimd<T>;
}

/// <summary>E4M3 codes of finite values.</summary>
internal readonly unsafe struct E4M3Weights : IWeightCodec
{
    public static int ValueBytes => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T First<T>(byte* source, byte* tables, out T a, out T b) where T : unmanaged, ISimd<T>
    {
        a = T.LoadE4M3((sbyte*)source);
        b = T.LoadE4M3((sbyte*)source + T.Count);
        return default;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Second<T>(byte* source, T rest, out T a, out T b) where T : unmanaged, ISimd<T> =>
        First(source + TileBlock.Columns, null, out a, out b);
}

/// <summary>E4M3 codes, NaN among them: used only when a layer has such, since looking for them costs time.</summary>
internal readonly unsafe struct E4M3NaNWeights : IWeightCodec
{
    public static int ValueBytes => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T First<T>(byte* source, byte* tables, out T a, out T b) where T : unmanaged, ISimd<T>
    {
        a = Decode<T>((sbyte*)source);
        b = Decode<T>((sbyte*)source + T.Count);
        return default;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Second<T>(byte* source, T rest, out T a, out T b) where T : unmanaged, ISimd<T> =>
        First(source + TileBlock.Columns, null, out a, out b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Decode<T>(sbyte* source) where T : unmanaged, ISimd<T> =>
        T.SelectWhere(T.LoadBytes(source), 0x7F, 0x7F, float.NaN, T.LoadE4M3(source));
}

/// <summary>
/// E4M3 codes by table, for 512-bit registers: two look-ups of 128 entries give the low and high bytes of 64 BF16 values, NaN included. Nothing is
/// computed in the units that multiply.
/// </summary>
internal readonly unsafe struct E4M3TableWeights : IWeightCodec
{
    public static int ValueBytes => 1;
    public static bool IsSupported => Avx512Vbmi.IsSupported && Avx512BW.IsSupported;

    /// <summary>Low bytes of 128 codes, then high bytes; the sign bit is no part of the look-up.</summary>
    public static void FillTables(Span<byte> tables)
    {
        for (int code = 0; code < 128; code++)
        {
            ushort bits = BFloat16.FromSingle(Float8E4M3.FromBits((byte)code).ToSingle()).Bits;
            tables[code] = (byte)bits;
            tables[128 + code] = (byte)(bits >> 8);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T First<T>(byte* source, byte* tables, out T a, out T b) where T : unmanaged, ISimd<T>
    {
        // Unpacking works within 16-byte lanes, so each lane first gets a quarter of each of the four vectors of results.
        Vector512<int> quarters = Vector512.Create(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        Vector512<byte> codes = Avx512F.PermuteVar16x32(Vector512.Load(source).AsInt32(), quarters).AsByte();
        Vector512<byte> low = Avx512Vbmi.PermuteVar64x8x2(Vector512.Load(tables), codes, Vector512.Load(tables + 64));
        Vector512<byte> high = Avx512Vbmi.PermuteVar64x8x2(Vector512.Load(tables + 128), codes, Vector512.Load(tables + 192))
            | (codes & Vector512.Create((byte)0x80));
        Widen(Avx512BW.UnpackLow(low, high).AsUInt16(), out a, out b);
        return Unsafe.BitCast<Vector512<byte>, T>(Avx512BW.UnpackHigh(low, high));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Second<T>(byte* source, T rest, out T a, out T b) where T : unmanaged, ISimd<T> =>
        Widen(Unsafe.BitCast<T, Vector512<ushort>>(rest), out a, out b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Widen<T>(Vector512<ushort> bf16, out T a, out T b) where T : unmanaged
    {
        a = Unsafe.BitCast<Vector512<ushort>, T>(Avx512BW.UnpackLow(Vector512<ushort>.Zero, bf16));
        b = Unsafe.BitCast<Vector512<ushort>, T>(Avx512BW.UnpackHigh(Vector512<ushort>.Zero, bf16));
    }
}

/// <summary>BF16 values.</summary>
internal readonly unsafe struct Bf16Weights : IWeightCodec
{
    public static int ValueBytes => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T First<T>(byte* source, byte* tables, out T a, out T b) where T : unmanaged, ISimd<T>
    {
        a = T.LoadBf16((ushort*)source);
        b = T.LoadBf16((ushort*)source + T.Count);
        return default;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Second<T>(byte* source, T rest, out T a, out T b) where T : unmanaged, ISimd<T> =>
        First(source + 2 * TileBlock.Columns, null, out a, out b);
}

/// <summary>What a kernel does with the scales of weights.</summary>
internal interface IWeightScaling
{
    /// <summary>Each 128-K block is summed by itself, then added times its scales; otherwise one chain runs over all of K.</summary>
    static abstract bool Promotes { get; }
    /// <summary>Every 32 steps of K each column has a scale that is part of the operand.</summary>
    static abstract bool HasColumnScales { get; }
}

/// <summary>FP32 scales per 128-K block.</summary>
internal readonly struct BlockScaling : IWeightScaling
{
    public static bool Promotes => true;
    public static bool HasColumnScales => false;
}

/// <summary>E8M0 scales per 32 steps of K.</summary>
internal readonly struct MxScaling : IWeightScaling
{
    public static bool Promotes => false;
    public static bool HasColumnScales => true;
}

/// <summary>None.</summary>
internal readonly struct NoScaling : IWeightScaling
{
    public static bool Promotes => false;
    public static bool HasColumnScales => false;
}
