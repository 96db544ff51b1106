using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>
/// The seam behind which kernels of other making (generated at run time, say) take the managed ones' place: an entry per row count, all reading the
/// same packed blocks. Chosen once per layer from the machine, never from the number of tokens, since another kernel may sum in another order.
/// </summary>
internal interface IGemmKernel
{
    /// <summary>Short name, as reports show it.</summary>
    string Name { get; }
    /// <summary>Why this machine would or would not use it, in one sentence.</summary>
    string Reason { get; }
    /// <summary>Whether this machine can run it.</summary>
    bool IsSupported { get; }
    /// <summary>Entries for a format.</summary>
    /// <param name="withNaN">Whether NaN codes must decode to NaN.</param>
    TileKernels For(WeightFormat format, bool withNaN);
}

/// <summary>Entry points for 1 to <see cref="MaxRows"/> rows; unmanaged, so that a job can carry it.</summary>
internal unsafe struct TileKernels
{
    /// <summary>Most rows that one entry does.</summary>
    public int MaxRows;
    /// <summary>What the codec looks codes up in; null where it does not.</summary>
    public byte* Tables;
    private EntryPoints _entries;

    [InlineArray(15)]
    private struct EntryPoints
    {
        private nint _first;
    }

    /// <summary>Sets the entry for this many rows.</summary>
    public void Set(int rows, delegate*<TileBlock*, void> entry) => _entries[rows] = (nint)entry;

    /// <summary>Does any number of rows, in even portions: 15 are 8 + 7.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void Multiply(TileBlock block, int rows)
    {
        block.Tables = Tables;
        for (int portions = (rows + MaxRows - 1) / MaxRows; portions > 0; portions--)
        {
            int portion = (rows + portions - 1) / portions;
            ((delegate*<TileBlock*, void>)_entries[portion])(&block);
            block.Rows += portion * TileBlock.MaxDepth;
            block.Sums += portion * block.SumStride;
            if (block.RowScales != null) block.RowScales += portion;
            rows -= portion;
        }
    }
}

/// <summary>The kernels there are, best first.</summary>
internal static class GemmKernels
{
    public static IReadOnlyList<IGemmKernel> All { get; } =
    [
        new ManagedKernel<Simd512, E4M3TableWeights>(
            "managed-512-vbmi", E4M3TableWeights.IsSupported, "512-bit vectors, and AVX512-VBMI to decode FP8 by table"),
        new ManagedKernel<Simd512, E4M3Weights>("managed-512", Simd512.IsSupported, "512-bit vectors"),
        new ManagedKernel<Simd256, E4M3Weights>("managed-256", Simd256.IsSupported, "256-bit vectors"),
        new ManagedKernel<Simd128, E4M3Weights>("managed-128", Simd128.IsSupported, "128-bit vectors"),
    ];

    /// <summary>The first that this machine can run.</summary>
    public static IGemmKernel Choose() => All.First(kernel => kernel.IsSupported);
}

internal sealed unsafe class ManagedKernel<T, TE4M3>(string name, bool isSupported, string needs) : IGemmKernel
    where T : unmanaged, ISimd<T> where TE4M3 : struct, IWeightCodec
{
    private readonly NativeBuffer _tables = Tables();

    public string Name => name;
    public string Reason => isSupported ? $"this machine has {needs}" : $"this machine lacks {needs}";
    public bool IsSupported => isSupported;

    public TileKernels For(WeightFormat format, bool withNaN) => (format, withNaN) switch
    {
        (WeightFormat.Bf16, _) => Entries<Bf16Weights, NoScaling>(),
        (WeightFormat.MxFp8, false) => Entries<TE4M3, MxScaling>(),
        (WeightFormat.MxFp8, true) => Entries<E4M3NaNWeights, MxScaling>(),
        (_, false) => Entries<TE4M3, BlockScaling>(),
        (_, true) => Entries<E4M3NaNWeights, BlockScaling>(),
    };

    private static NativeBuffer Tables()
    {
        var tables = new NativeBuffer(256);
        E4M3TableWeights.FillTables(tables.Span<byte>(0, 256));
        return tables;
    }

    private TileKernels Entries<TCodec, TScaling>() where TCodec : struct, IWeightCodec where TScaling : struct, IWeightScaling
    {
        var kernels = new TileKernels { MaxRows = TileKernel.MaxRows, Tables = _tables.Pointer };
        kernels.Set(1, &TileKernel.Run<T, TCodec, TScaling, Rows1>);
        kernels.Set(2, &TileKernel.Run<T, TCodec, TScaling, Rows2>);
        kernels.Set(3, &TileKernel.Run<T, TCodec, TScaling, Rows3>);
        kernels.Set(4, &TileKernel.Run<T, TCodec, TScaling, Rows4>);
        kernels.Set(5, &TileKernel.Run<T, TCodec, TScaling, Rows5>);
        kernels.Set(6, &TileKernel.Run<T, TCodec, TScaling, Rows6>);
        kernels.Set(7, &TileKernel.Run<T, TCodec, TScaling, Rows7>);
        kernels.Set(8, &TileKernel.Run<T, TCodec, TScaling, Rows8>);
        kernels.Set(9, &TileKernel.Run<T, TCodec, TScaling, Rows9>);
        kernels.Set(10, &TileKernel.Run<T, TCodec, TScaling, Rows10>);
        kernels.Set(11, &TileKernel.Run<T, TCodec, TScaling, Rows11>);
        kernels.Set(12, &TileKernel.Run<T, TCodec, TScaling, Rows12>);
        kernels.Set(13, &TileKernel.Run<T, TCodec, TScaling, Rows13>);
        kernels.Set(14, &TileKernel.Run<T, TCodec, TScaling, Rows14>);
        return kernels;
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
