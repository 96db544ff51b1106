namespace MoeSharp;

internal sealed class ReferenceBackend : IExpertsBackend
{
    public string Name => "reference";
    public Support SupportsDevice() => Support.Yes;
    public Support SupportsFormat(WeightFormat format, ActivationFormat activations) => Support.Yes;
    public Support SupportsActivation(Activation activation) => Support.Yes;
    public IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights) => throw new UnsupportedException("being written");
}
