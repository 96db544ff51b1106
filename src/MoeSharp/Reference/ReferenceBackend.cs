namespace MoeSharp;

/// <summary>The specification in code: the seven steps one after the other, scalar, one thread. Every other backend is held to it.</summary>
/// <param name="check">Looks at the values after every step; null: nobody does.</param>
internal sealed class ReferenceBackend(FiniteCheck? check = null) : IExpertsBackend
{
    public string Name => "reference";

    public Support SupportsDevice() => Support.Yes;

    public Support SupportsFormat(WeightFormat format, ActivationFormat activations) => Formats.Pair(format, activations);

    public Support SupportsActivation(Activation activation) => Support.Yes;

    public IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights)
    {
        if (!allowNaNWeights) NaNCodes.Check(weights);
        return new ReferenceExperts(shape, weights, check);
    }
}
