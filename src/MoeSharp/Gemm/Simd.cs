using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MoeSharp;

/// <summary>
/// The few FP32 vector operations a GEMM kernel is written in, so that one body serves every register width. Each is elementwise: results do not
/// depend on the width.
/// </summary>
internal unsafe interface ISimd<TSelf> where TSelf : unmanaged, ISimd<TSelf>
{
    /// <summary>FP32 values per vector.</summary>
    static abstract int Count { get; }
    static abstract bool IsSupported { get; }
    static abstract TSelf Create(float value);
    static abstract TSelf Load(float* source);
    static abstract void Store(TSelf value, float* target);
    static abstract TSelf Multiply(TSelf a, TSelf b);
    /// <summary>a * b + c, rounded once.</summary>
    static abstract TSelf MultiplyAdd(TSelf a, TSelf b, TSelf c);
    /// <summary>Count bytes, sign-extended to 32 bits each.</summary>
    static abstract TSelf LoadBytes(sbyte* source);
    /// <summary>Count finite E4M3 codes.</summary>
    static abstract TSelf LoadE4M3(sbyte* source);
    /// <summary>Count BF16 values.</summary>
    static abstract TSelf LoadBf16(ushort* source);
    /// <summary>Count E8M0 scales.</summary>
    static abstract TSelf LoadE8M0(sbyte* source);
    /// <summary><paramref name="other"/> where the bits under the mask equal <paramref name="code"/>, else the value.</summary>
    static abstract TSelf SelectWhere(TSelf bits, uint mask, uint code, float other, TSelf value);
}

/// <summary>
/// Decoding without subnormal FP32 operands, which are slow on many processors: a code's exponent and mantissa plus a bias are n, its value if it is
/// normal; for a subnormal code the value is 2n - 2^-6. Each of the two is the smaller one just where it is right.
/// </summary>
internal static class E4M3
{
    public const uint Bias = (127 - 7) << 23;
    public const float LeastNormal = 1 / 64f;
}

internal readonly unsafe struct Simd512(Vector512<float> v) : ISimd<Simd512>
{
    private readonly Vector512<float> _v = v;

    public static int Count => 16;
    public static bool IsSupported => Vector512.IsHardwareAccelerated;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 Create(float value) => new(Vector512.Create(value));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 Load(float* source) => new(Vector512.Load(source));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Simd512 value, float* target) => value._v.Store(target);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 Multiply(Simd512 a, Simd512 b) => new(a._v * b._v);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 MultiplyAdd(Simd512 a, Simd512 b, Simd512 c) => new(Vector512.FusedMultiplyAdd(a._v, b._v, c._v));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 LoadBytes(sbyte* source) =>
        new(Vector512.WidenLower(Vector512.WidenLower(Vector128.Load(source).ToVector256Unsafe().ToVector512Unsafe())).AsSingle());
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 LoadE4M3(sbyte* source)
    {
        Vector512<uint> code = LoadBytes(source)._v.AsUInt32();
        Vector512<float> normal = (((code & Vector512.Create(0x7Fu)) << 20) + Vector512.Create(E4M3.Bias)).AsSingle();
        Vector512<float> subnormal = Vector512.FusedMultiplyAdd(normal, Vector512.Create(2f), Vector512.Create(-E4M3.LeastNormal));
        return new((Vector512.MinNative(normal, subnormal).AsUInt32() | (code & Vector512.Create(0x80000000u))).AsSingle());
    }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 LoadBf16(ushort* source) => new((Vector512.WidenLower(Vector256.Load(source).ToVector512Unsafe()) << 16).AsSingle());
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 LoadE8M0(sbyte* source)
    {
        Simd512 codes = LoadBytes(source), powers = new(((codes._v.AsUInt32() & Vector512.Create(0xFFu)) << 23).AsSingle());
        return SelectWhere(codes, 0xFF, 0xFF, float.NaN, SelectWhere(codes, 0xFF, 0, 5.877472e-39f, powers));
    }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd512 SelectWhere(Simd512 bits, uint mask, uint code, float other, Simd512 value)
    {
        Vector512<uint> hits = Vector512.Equals(bits._v.AsUInt32() & Vector512.Create(mask), Vector512.Create(code));
        return new(Vector512.ConditionalSelect(hits.AsSingle(), Vector512.Create(other), value._v));
    }
}

internal readonly unsafe struct Simd256(Vector256<float> v) : ISimd<Simd256>
{
    private readonly Vector256<float> _v = v;

    public static int Count => 8;
    public static bool IsSupported => Vector256.IsHardwareAccelerated;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 Create(float value) => new(Vector256.Create(value));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 Load(float* source) => new(Vector256.Load(source));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Simd256 value, float* target) => value._v.Store(target);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 Multiply(Simd256 a, Simd256 b) => new(a._v * b._v);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 MultiplyAdd(Simd256 a, Simd256 b, Simd256 c) => new(Vector256.FusedMultiplyAdd(a._v, b._v, c._v));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 LoadBytes(sbyte* source) =>
        new(Vector256.WidenLower(Vector256.WidenLower(Vector128.CreateScalarUnsafe(*(long*)source).AsSByte().ToVector256Unsafe())).AsSingle());
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 LoadE4M3(sbyte* source)
    {
        Vector256<uint> code = LoadBytes(source)._v.AsUInt32();
        Vector256<float> normal = (((code & Vector256.Create(0x7Fu)) << 20) + Vector256.Create(E4M3.Bias)).AsSingle();
        Vector256<float> subnormal = Vector256.FusedMultiplyAdd(normal, Vector256.Create(2f), Vector256.Create(-E4M3.LeastNormal));
        return new((Vector256.MinNative(normal, subnormal).AsUInt32() | (code & Vector256.Create(0x80000000u))).AsSingle());
    }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 LoadBf16(ushort* source) => new((Vector256.WidenLower(Vector128.Load(source).ToVector256Unsafe()) << 16).AsSingle());
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 LoadE8M0(sbyte* source)
    {
        Simd256 codes = LoadBytes(source), powers = new(((codes._v.AsUInt32() & Vector256.Create(0xFFu)) << 23).AsSingle());
        return SelectWhere(codes, 0xFF, 0xFF, float.NaN, SelectWhere(codes, 0xFF, 0, 5.877472e-39f, powers));
    }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd256 SelectWhere(Simd256 bits, uint mask, uint code, float other, Simd256 value)
    {
        Vector256<uint> hits = Vector256.Equals(bits._v.AsUInt32() & Vector256.Create(mask), Vector256.Create(code));
        return new(Vector256.ConditionalSelect(hits.AsSingle(), Vector256.Create(other), value._v));
    }
}

internal readonly unsafe struct Simd128(Vector128<float> v) : ISimd<Simd128>
{
    private readonly Vector128<float> _v = v;

    public static int Count => 4;
    public static bool IsSupported => true;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 Create(float value) => new(Vector128.Create(value));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 Load(float* source) => new(Vector128.Load(source));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Simd128 value, float* target) => value._v.Store(target);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 Multiply(Simd128 a, Simd128 b) => new(a._v * b._v);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 MultiplyAdd(Simd128 a, Simd128 b, Simd128 c) => new(Vector128.FusedMultiplyAdd(a._v, b._v, c._v));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 LoadBytes(sbyte* source) =>
        new(Vector128.WidenLower(Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(int*)source).AsSByte())).AsSingle());
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 LoadE4M3(sbyte* source)
    {
        Vector128<uint> code = LoadBytes(source)._v.AsUInt32();
        Vector128<float> normal = (((code & Vector128.Create(0x7Fu)) << 20) + Vector128.Create(E4M3.Bias)).AsSingle();
        Vector128<float> subnormal = Vector128.FusedMultiplyAdd(normal, Vector128.Create(2f), Vector128.Create(-E4M3.LeastNormal));
        return new((Vector128.MinNative(normal, subnormal).AsUInt32() | (code & Vector128.Create(0x80000000u))).AsSingle());
    }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 LoadBf16(ushort* source) =>
        new((Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(long*)source).AsUInt16()) << 16).AsSingle());
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 LoadE8M0(sbyte* source)
    {
        Simd128 codes = LoadBytes(source), powers = new(((codes._v.AsUInt32() & Vector128.Create(0xFFu)) << 23).AsSingle());
        return SelectWhere(codes, 0xFF, 0xFF, float.NaN, SelectWhere(codes, 0xFF, 0, 5.877472e-39f, powers));
    }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Simd128 SelectWhere(Simd128 bits, uint mask, uint code, float other, Simd128 value)
    {
        Vector128<uint> hits = Vector128.Equals(bits._v.AsUInt32() & Vector128.Create(mask), Vector128.Create(code));
        return new(Vector128.ConditionalSelect(hits.AsSingle(), Vector128.Create(other), value._v));
    }
}
