namespace MoeSharp;

/// <summary>Managed SIMD: runs anywhere, and is what generated kernels are checked against.</summary>
internal sealed unsafe class ManagedKernel<T, TE4M3>(string name, bool isSupported, string needs) : IGemmKernel
    where T : unmanaged, ISimd<T> where TE4M3 : struct, IWeightCodec
{
    private readonly NativeBuffer _tables = Tables();

    public string Name => name;
    public string Reason => isSupported ? $"this machine has {needs}" : $"this machine lacks {needs}";
    public bool IsSupported => isSupported;
    public Operand Operand => Operand.F32;
    public TileOrder Order => TileOrder.Plain;

    public TileKernels For(WeightFormat format, bool withNaN) => (format, withNaN) switch
    {
        (WeightFormat.Bf16, _) => Entries<Bf16Weights, NoScaling>(format),
        (WeightFormat.MxFp8, false) => Entries<TE4M3, MxScaling>(format),
        (WeightFormat.MxFp8, true) => Entries<E4M3NaNWeights, MxScaling>(format),
        (_, false) => Entries<TE4M3, BlockScaling>(format),
        (_, true) => Entries<E4M3NaNWeights, BlockScaling>(format),
    };

    private static NativeBuffer Tables()
    {
        var tables = new NativeBuffer(256);
        E4M3TableWeights.FillTables(tables.Span<byte>(0, 256));
        return tables;
    }

    private TileKernels Entries<TCodec, TScaling>(WeightFormat format) where TCodec : struct, IWeightCodec where TScaling : struct, IWeightScaling
    {
        var kernels = new TileKernels(format, Operand, TileKernel.MaxRows, isUnmanaged: false) { Tables = _tables.Pointer };
        Set<TCodec, TScaling, Rows1>(ref kernels);
        Set<TCodec, TScaling, Rows2>(ref kernels);
        Set<TCodec, TScaling, Rows3>(ref kernels);
        Set<TCodec, TScaling, Rows4>(ref kernels);
        Set<TCodec, TScaling, Rows5>(ref kernels);
        Set<TCodec, TScaling, Rows6>(ref kernels);
        Set<TCodec, TScaling, Rows7>(ref kernels);
        Set<TCodec, TScaling, Rows8>(ref kernels);
        Set<TCodec, TScaling, Rows9>(ref kernels);
        Set<TCodec, TScaling, Rows10>(ref kernels);
        Set<TCodec, TScaling, Rows11>(ref kernels);
        Set<TCodec, TScaling, Rows12>(ref kernels);
        Set<TCodec, TScaling, Rows13>(ref kernels);
        Set<TCodec, TScaling, Rows14>(ref kernels);
        return kernels;
    }

    private static void Set<TCodec, TScaling, TRows>(ref TileKernels kernels)
        where TCodec : struct, IWeightCodec where TScaling : struct, IWeightScaling where TRows : struct, IRowCount
    {
        delegate*<TileBlock*, void> entry = &TileKernel.Run<T, TCodec, TScaling, TRows>;
        kernels.Set(TRows.Count, (nint)entry);
    }

    private readonly struct Rows1 : IRowCount { public static int Count => 1; }
    private readonly struct Rows2 : IRowCount { public static int Count => 2; }
    private readonly struct Rows3 : IRowCount { public static int Count => 3; }
    private readonly struct Rows4 : IRowCount { public static int Count => 4; }
    private readonly struct Rows5 : IRowCount { public static int Count => 5; }
    private readonly struct Rows6 : IRowCount { public static int Count => 6; }
    private readonly struct Rows7 : IRowCount { public static int Count => 7; }
    private readonly struct Rows8 : IRowCount { public static int Count => 8; }
    private readonly struct Rows9 : IRowCount { public static int Count => 9; }
    private readonly struct Rows10 : IRowCount { public static int Count => 10; }
    private readonly struct Rows11 : IRowCount { public static int Count => 11; }
    private readonly struct Rows12 : IRowCount { public static int Count => 12; }
    private readonly struct Rows13 : IRowCount { public static int Count => 13; }
    private readonly struct Rows14 : IRowCount { public static int Count => 14; }
}
