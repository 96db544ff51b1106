namespace MoeSharp;

/// <summary>The specification in code: the seven steps one after the other, scalar, one thread. Every other backend is held to it.</summary>
internal sealed class ReferenceBackend : IExpertsBackend
{
    public string Name => "reference";

    public Support SupportsDevice() => Support.Yes;

    public Support SupportsFormat(WeightFormat format, ActivationFormat activations) => Formats.Pair(format, activations);

    public Support SupportsActivation(Activation activation) => Support.Yes;

    public IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights)
    {
        if (!allowNaNWeights) NaNCodes.Check(weights);
        return new ReferenceExperts(shape, weights);
    }
}
