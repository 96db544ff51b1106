using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MoeSharp;

/// <summary>
/// Sixteen FP32 lanes, whatever the machine's vector width: the same operations in the same order give the same bits everywhere. A sum folds the
/// upper half onto the lower half: 16 to 8 to 4 to 2 to 1.
/// </summary>
internal unsafe interface ILanes16<TSelf> where TSelf : unmanaged, ILanes16<TSelf>
{
    static abstract TSelf Load(float* from);
    static abstract TSelf Load(BFloat16* from);
    static abstract TSelf Broadcast(float value);
    static abstract TSelf FusedMultiplyAdd(TSelf a, TSelf b, TSelf c);
    static abstract float Sum(TSelf lanes);
    static abstract void Store(TSelf lanes, float* to);
}

internal readonly unsafe struct Lanes512 : ILanes16<Lanes512>
{
    private readonly Vector512<float> _v;

    private Lanes512(Vector512<float> v) => _v = v;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Load(float* from) => new(Vector512.Load(from));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Load(BFloat16* from)
    {
        Vector256<ushort> bits = Vector256.Load((ushort*)from);
        return new((Vector512.Create(Vector256.WidenLower(bits), Vector256.WidenUpper(bits)) << 16).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 Broadcast(float value) => new(Vector512.Create(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 FusedMultiplyAdd(Lanes512 a, Lanes512 b, Lanes512 c) => new(Vector512.FusedMultiplyAdd(a._v, b._v, c._v));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Lanes512 lanes)
    {
        Vector256<float> eight = lanes._v.GetLower() + lanes._v.GetUpper();
        return Lanes128.SumFour(eight.GetLower() + eight.GetUpper());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Lanes512 lanes, float* to) => lanes._v.Store(to);
}

internal readonly unsafe struct Lanes256 : ILanes16<Lanes256>
{
    private readonly Vector256<float> _a, _b;

    private Lanes256(Vector256<float> a, Vector256<float> b) => (_a, _b) = (a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Load(float* from) => new(Vector256.Load(from), Vector256.Load(from + 8));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Load(BFloat16* from)
    {
        Vector256<ushort> bits = Vector256.Load((ushort*)from);
        return new((Vector256.WidenLower(bits) << 16).AsSingle(), (Vector256.WidenUpper(bits) << 16).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 Broadcast(float value) => new(Vector256.Create(value), Vector256.Create(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 FusedMultiplyAdd(Lanes256 a, Lanes256 b, Lanes256 c) =>
        new(Vector256.FusedMultiplyAdd(a._a, b._a, c._a), Vector256.FusedMultiplyAdd(a._b, b._b, c._b));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Lanes256 lanes)
    {
        Vector256<float> eight = lanes._a + lanes._b;
        return Lanes128.SumFour(eight.GetLower() + eight.GetUpper());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Lanes256 lanes, float* to)
    {
        lanes._a.Store(to);
        lanes._b.Store(to + 8);
    }
}

/// <summary>Also the scalar form: without vector hardware the runtime computes each lane by itself.</summary>
internal readonly unsafe struct Lanes128 : ILanes16<Lanes128>
{
    private readonly Vector128<float> _a, _b, _c, _d;

    private Lanes128(Vector128<float> a, Vector128<float> b, Vector128<float> c, Vector128<float> d) => (_a, _b, _c, _d) = (a, b, c, d);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Load(float* from) =>
        new(Vector128.Load(from), Vector128.Load(from + 4), Vector128.Load(from + 8), Vector128.Load(from + 12));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Load(BFloat16* from)
    {
        Vector128<ushort> low = Vector128.Load((ushort*)from), high = Vector128.Load((ushort*)from + 8);
        return new((Vector128.WidenLower(low) << 16).AsSingle(), (Vector128.WidenUpper(low) << 16).AsSingle(),
            (Vector128.WidenLower(high) << 16).AsSingle(), (Vector128.WidenUpper(high) << 16).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 Broadcast(float value)
    {
        Vector128<float> v = Vector128.Create(value);
        return new(v, v, v, v);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 FusedMultiplyAdd(Lanes128 a, Lanes128 b, Lanes128 c) =>
        new(Vector128.FusedMultiplyAdd(a._a, b._a, c._a), Vector128.FusedMultiplyAdd(a._b, b._b, c._b),
            Vector128.FusedMultiplyAdd(a._c, b._c, c._c), Vector128.FusedMultiplyAdd(a._d, b._d, c._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Lanes128 lanes) => SumFour((lanes._a + lanes._c) + (lanes._b + lanes._d));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float SumFour(Vector128<float> four) => (four[0] + four[2]) + (four[1] + four[3]);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Lanes128 lanes, float* to)
    {
        lanes._a.Store(to);
        lanes._b.Store(to + 4);
        lanes._c.Store(to + 8);
        lanes._d.Store(to + 12);
    }
}
