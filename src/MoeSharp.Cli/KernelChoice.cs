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
    public static KernelChoice[] All(CancellationToken cancel) =>
    [
        Of(WeightFormat.Block128, ActivationFormat.Fp8, cancel),
        Of(WeightFormat.Block128, ActivationFormat.Bf16, cancel),
        Of(WeightFormat.MxFp8, ActivationFormat.Fp8, cancel),
        Of(WeightFormat.MxFp8, ActivationFormat.Bf16, cancel),
        Of(WeightFormat.Bf16, ActivationFormat.Bf16, cancel),
    ];

    public string InWords() => string.Join("; ", PassedOver.Append(Kernel));

    private static KernelChoice Of(WeightFormat format, ActivationFormat activations, CancellationToken cancel)
    {
        using BenchLayer probe = BenchLayer.Random(new BenchShape("probe", 1, 1, 128, 128), format, activations, null, cancel);
        FusedExperts experts = probe.Experts;
        string[] passedOver =
        [
            .. ExpertsBackends.All.TakeWhile(backend => backend.Name != experts.Backend.Name)
                .Select(backend => $"{backend.Name}: {FusedExperts.Supports(backend, experts.Shape).Reason}"),
        ];
        return new(format, activations, experts.Backend.Name, experts.Description, passedOver);
    }
}
