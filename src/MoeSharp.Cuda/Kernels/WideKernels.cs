namespace MoeSharp;

/// <summary>The kernels for weights that are decoded to BF16, loaded when the first such layer comes.</summary>
internal sealed class WideKernels
{
    private const int GemmThreads = 384, FewThreads = 480, PermuteThreads = 1024, PrepareThreads = 256, WidenThreads = 256;

    internal WideKernels(KernelSet set)
    {
        CudaModule few = set.Load("experts_few_wide"), gemms = set.Load("gateup_down_wide"), prepare = set.Load("prepare_wide");
        Few = [.. Names.Select(name => few.Kernel("experts_few_wide_" + name, FewThreads, staged: true))];
        Gemms = [.. Names.Select(name => gemms.Kernel("gateup_down_wide_" + name, GemmThreads, staged: true))];
        Permute = set.Load("permute_wide").Kernel("permute_wide", PermuteThreads);
        Widen = set.Load("widen_codes").Kernel("widen_codes", WidenThreads);
        Prepare = prepare.Kernel("prepare_wide", PrepareThreads);
        Decode = prepare.Kernel("decode_wide", PrepareThreads);
    }

    private static string[] Names { get; } = ["mxfp8", "block128", "bf16", "mxfp8_large"];

    /// <summary>Position of the kernels for MXFP8 layers with a scale above 2^7, which takes two factors.</summary>
    internal const int LargeScales = 3;

    /// <summary>Position of a format's kernels; also what the kernel that lays weights out calls it.</summary>
    internal static int IndexOf(WeightFormat format) => format switch { WeightFormat.MxFp8 => 0, WeightFormat.Bf16 => 2, _ => 1 };

    /// <summary>Whether a layer runs on these kernels rather than on those that multiply FP8 by FP8.</summary>
    internal static bool Serve(WeightFormat format, ActivationFormat activations) =>
        activations == ActivationFormat.Bf16 || format is WeightFormat.MxFp8 or WeightFormat.Bf16;

    /// <summary>All steps of few tokens.</summary>
    internal CudaKernel[] Few { get; }

    /// <summary>GateUp, Down or both.</summary>
    internal CudaKernel[] Gemms { get; }
    internal CudaKernel Permute { get; }
    /// <summary>MXFP8 hidden states that the caller quantized, to BF16.</summary>
    internal CudaKernel Widen { get; }
    internal CudaKernel Prepare { get; }

    /// <summary>For tests: every code under every MXFP8 scale.</summary>
    internal CudaKernel Decode { get; }
}
