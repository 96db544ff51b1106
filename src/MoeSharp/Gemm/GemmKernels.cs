namespace MoeSharp;

/// <summary>The kernels there are, best first.</summary>
internal static class GemmKernels
{
    public static IReadOnlyList<IGemmKernel> All { get; } =
    [
        new Bf16DotKernel(),
        new ManagedKernel<Simd512, E4M3TableWeights>(
            "managed-512-vbmi", E4M3TableWeights.IsSupported, "512-bit vectors, and AVX512-VBMI to decode FP8 by table"),
        new ManagedKernel<Simd512, E4M3Weights>("managed-512", Simd512.IsSupported, "512-bit vectors"),
        new ManagedKernel<Simd256, E4M3Weights>("managed-256", Simd256.IsSupported, "256-bit vectors"),
        new ManagedKernel<Simd128, E4M3Weights>("managed-128", Simd128.IsSupported, "128-bit vectors"),
    ];

    /// <summary>The first that this machine can run.</summary>
    public static IGemmKernel Choose() => All.First(kernel => kernel.IsSupported);
}
