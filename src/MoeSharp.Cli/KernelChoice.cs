namespace MoeSharp.Cli;

/// <summary>What "auto" picks for one weight format and one way of taking activations, and why not something before it.</summary>
/// <param name="Format">Of the weights.</param>
/// <param name="Activations">Into the GEMMs.</param>
/// <param name="Backend">The one that is picked.</param>
/// <param name="Kernel">What it says about itself.</param>
/// <param name="PassedOver">"name: reason" of every backend that is preferred but cannot do this here.</param>
internal sealed record KernelChoice(WeightFormat Format, ActivationFormat Activations, string Backend, string Kernel, IReadOnlyList<string> PassedOver)
{
    /// <summary>Every combination that exists, found by preparing a tiny layer of each.</summary>
    public static KernelChoice[] All(AutoGpu gpu, CancellationToken cancel) =>
    [
        Of(WeightFormat.Block128, ActivationFormat.Fp8, gpu, cancel),
        Of(WeightFormat.Block128, ActivationFormat.Bf16, gpu, cancel),
        Of(WeightFormat.MxFp8, ActivationFormat.Fp8, gpu, cancel),
        Of(WeightFormat.MxFp8, ActivationFormat.Bf16, gpu, cancel),
        Of(WeightFormat.Bf16, ActivationFormat.Bf16, gpu, cancel),
    ];

    public string InWords() => string.Join("; ", PassedOver.Append(Kernel));

    private static KernelChoice Of(WeightFormat format, ActivationFormat activations, AutoGpu gpu, CancellationToken cancel)
    {
        var shape = new BenchShape("probe", 1, 1, 128, 128);
        using ExpertWeights sizes = SyntheticWeights.OnlySizes(shape, format);
        Support takes = gpu.Takes([(ExpertsShape.From(BenchLayer.Options(shape, activations), sizes), sizes)], tokens: 1);
        using BenchLayer probe = BenchLayer.Random(shape, format, activations, takes.IsSupported ? gpu.Backend : null, cancel);
        FusedExperts experts = probe.Experts;
        if (takes.IsSupported) return new(format, activations, experts.Backend.Name, experts.Description, []);
        string[] passedOver =
        [
            $"{ChosenBackend.Cuda}: {(gpu.Backend.SupportsDevice().IsSupported ? takes.Reason!.TrimEnd('.') : "no usable GPU")}",
            .. ExpertsBackends.All.TakeWhile(backend => backend.Name != experts.Backend.Name)
                .Select(backend => $"{backend.Name}: {FusedExperts.Supports(backend, experts.Shape).Reason}"),
        ];
        return new(format, activations, experts.Backend.Name, experts.Description, passedOver);
    }
}
