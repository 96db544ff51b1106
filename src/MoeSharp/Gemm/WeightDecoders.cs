using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>How a kernel turns packed weights into FP32, and what it does with scales.</summary>
internal unsafe interface IWeightDecoder
{
    /// <summary>Bytes of one packed value.</summary>
    static abstract int ValueBytes { get; }
    /// <summary>Each 128-K block is summed by itself, then added times its scales; otherwise one chain runs over all of K.</summary>
    static abstract bool Promotes { get; }
    /// <summary>Every 32 steps of K each column has a scale that is part of the operand.</summary>
    static abstract bool HasColumnScales { get; }
    /// <summary>Exact.</summary>
    static abstract T Decode<T>(byte* source) where T : unmanaged, ISimd<T>;
}

/// <summary>E4M3 with FP32 scales per 128-K block.</summary>
internal readonly unsafe struct Block128Weights : IWeightDecoder
{
    public static int ValueBytes => 1;
    public static bool Promotes => true;
    public static bool HasColumnScales => false;

    /// <summary>Sign, exponent and mantissa moved into an FP32 pattern are the value times 2^-120, subnormal codes included.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Decode<T>(byte* source) where T : unmanaged, ISimd<T> =>
        T.Multiply(T.ShiftAnd(T.LoadBytes((sbyte*)source), 20, 0x87F00000), T.Create(1.329227995784916e36f));
}

/// <summary>E4M3 with E8M0 scales per 32 steps of K.</summary>
internal readonly unsafe struct MxWeights : IWeightDecoder
{
    public static int ValueBytes => 1;
    public static bool Promotes => false;
    public static bool HasColumnScales => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Decode<T>(byte* source) where T : unmanaged, ISimd<T> => Block128Weights.Decode<T>(source);
}

/// <summary>BF16.</summary>
internal readonly unsafe struct Bf16Weights : IWeightDecoder
{
    public static int ValueBytes => 2;
    public static bool Promotes => false;
    public static bool HasColumnScales => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Decode<T>(byte* source) where T : unmanaged, ISimd<T> => T.LoadBf16((ushort*)source);
}

/// <summary>The same weights where some codes are NaN: only used when a layer has such, since looking for them costs time.</summary>
internal readonly unsafe struct WithNaN<TWeights> : IWeightDecoder where TWeights : struct, IWeightDecoder
{
    public static int ValueBytes => 1;
    public static bool Promotes => TWeights.Promotes;
    public static bool HasColumnScales => TWeights.HasColumnScales;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Decode<T>(byte* source) where T : unmanaged, ISimd<T> =>
        T.SelectWhere(T.LoadBytes((sbyte*)source), 0x7F, 0x7F, float.NaN, TWeights.Decode<T>(source));
}
