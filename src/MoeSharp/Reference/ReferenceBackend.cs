namespace MoeSharp;

/// <summary>The specification in code: the seven steps one after the other, scalar, one thread. Every other backend is held to it.</summary>
internal sealed class ReferenceBackend : IExpertsBackend
{
    public string Name => "reference";

    public Support SupportsDevice() => Support.Yes;

    public Support SupportsFormat(WeightFormat format, ActivationFormat activations) =>
        format == WeightFormat.Bf16 && activations == ActivationFormat.Fp8
            ? Support.No("BF16 weights take BF16 activations; FP8 activations need FP8 weights.")
            : Support.Yes;

    public Support SupportsActivation(Activation activation) => Support.Yes;

    public IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights)
    {
        if (!allowNaNWeights) NaNCodes.Check(weights);
        return new ReferenceExperts(shape, weights);
    }
}
