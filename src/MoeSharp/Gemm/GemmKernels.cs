namespace MoeSharp;

/// <summary>The kernels there are, best first on this machine.</summary>
internal static class GemmKernels
{
    public static IReadOnlyList<IGemmKernel> All { get; } =
    [
        new AmxKernel(),
        .. Avx512s,
        Avx2(CpuFeatures.FastSubnormals ? TileOrder.Woven : TileOrder.Plain),
        new ManagedKernel<Simd512, E4M3TableWeights>(
            "managed-512-vbmi", E4M3TableWeights.IsSupported, "512-bit vectors, and AVX512-VBMI to decode FP8 by table"),
        new ManagedKernel<Simd512, E4M3Weights>("managed-512", Simd512.IsSupported, "512-bit vectors"),
        new ManagedKernel<Simd256, E4M3Weights>("managed-256", Simd256.IsSupported, "256-bit vectors"),
        new ManagedKernel<Simd128, E4M3Weights>("managed-128", Simd128.IsSupported, "128-bit vectors"),
    ];

    /// <summary>Dot products of BF16 and multiply-adds of FP32, the faster first.</summary>
    private static IGemmKernel[] Avx512s
    {
        get
        {
            IGemmKernel dots = new Bf16DotKernel(), multiplies = Avx512(CpuFeatures.Avx512Vbmi ? TileOrder.Quads : TileOrder.Plain);
            return CpuFeatures.FastBf16Dots ? [dots, multiplies] : [multiplies, dots];
        }
    }

    /// <summary>With weights in this order.</summary>
    internal static FmaKernel Avx512(TileOrder order) => new("avx512", CpuFeatures.Avx512, "AVX-512 F, BW and VL", order, hasRows: true, hasPanel: true,
        (a, constants, _) => order == TileOrder.Quads ? new Avx512QuadsAssembler(a, constants) : new Avx512Assembler(a, constants));

    /// <summary>With FP8 weights in this order.</summary>
    internal static FmaKernel Avx2(TileOrder order) => Avx2(order, rowsAreCodes: true, order == TileOrder.Woven ? Avx2(order, rowsAreCodes: false, any: null) : null);

    private static FmaKernel Avx2(TileOrder order, bool rowsAreCodes, FmaKernel? any) =>
        new("avx2", CpuFeatures.Avx2Fma, "AVX2, FMA and F16C", order, hasRows: false, hasPanel: order == TileOrder.Plain, (a, constants, own) => new Avx2Assembler(a, constants, own), rowsAreCodes, any);

    /// <summary>Names the kernel to use instead of the first that this machine can run; an option in code or of the tool goes before it.</summary>
    internal static string? Override => Environment.GetEnvironmentVariable("MOESHARP_CPU_KERNEL") is { Length: > 0 } name ? name : null;

    /// <summary>The kernel with this name, or without one the override, or the first that this machine can run.</summary>
    /// <param name="kernel">Null where the answer is no.</param>
    public static Support Choose(string? name, out IGemmKernel? kernel)
    {
        string source = name is null ? "MOESHARP_CPU_KERNEL" : "The kernel option (--kernel of the tool)";
        name ??= Override;
        kernel = name is null ? All.First(candidate => candidate.IsSupported) : All.FirstOrDefault(candidate => candidate.Name == name);
        if (kernel is null) return Support.No($"{source} names '{name}', which no CPU kernel is called; there are {string.Join(", ", All.Select(k => k.Name))}.");
        if (kernel.IsSupported) return Support.Yes;
        string reason = kernel.Reason;
        kernel = null;
        return Support.No($"{source} names {name}, but {reason}.");
    }
}
