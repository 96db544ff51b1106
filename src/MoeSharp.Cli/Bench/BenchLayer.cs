namespace MoeSharp.Cli;

/// <summary>A layer's routed experts and what timing them needs to know: which experts are here, and how many bytes each costs to read.</summary>
internal sealed class BenchLayer : IDisposable
{
    private readonly ExpertWeights _weights;

    public BenchLayer(string name, ExpertsOptions options, ExpertWeights weights, int[] expertMap, IExpertsBackend? backend)
    {
        Name = name;
        ExpertMap = expertMap;
        _weights = weights;
        ExpertBytes = [.. Enumerable.Range(0, weights.Count).Select(e => weights.Gate[e].Bytes + weights.Up[e].Bytes + weights.Down[e].Bytes)];
        Experts = new FusedExperts(options, weights, backend);
    }

    /// <summary>As reports call it.</summary>
    public string Name { get; }

    public FusedExperts Experts { get; }

    /// <summary>[global experts], empty when all are local.</summary>
    public int[] ExpertMap { get; }

    /// <summary>[E] bytes of values and scales.</summary>
    public long[] ExpertBytes { get; }

    public ExpertsShape Shape => Experts.Shape;

    /// <summary>Random weights of a shape.</summary>
    /// <exception cref="ArgumentException">They would not fit into memory.</exception>
    public static BenchLayer Random(BenchShape shape, WeightFormat format, ActivationFormat? activations, IExpertsBackend? backend, CancellationToken cancel)
    {
        long bytes = SyntheticWeights.Bytes(shape, format), available = Machine.AvailableMemory();
        if (bytes > 0.9 * available)
            throw new ArgumentException($"The experts of {shape.Name} in {format} take {Units.Bytes(bytes)} but {Units.Bytes(available)} of memory are available; choose a smaller shape.");
        var options = new ExpertsOptions
        {
            TopK = shape.TopK,
            Activation = shape.Activation,
            Activations = activations,
            GlobalExperts = shape.Experts,
        };
        ExpertWeights weights = SyntheticWeights.Create(shape, format, cancel);
        try
        {
            return new(shape.Name, options, weights, shape.ExpertMap(), backend);
        }
        catch
        {
            weights.Dispose();
            throw;
        }
    }

    public void Dispose()
    {
        Experts.Dispose();
        _weights.Dispose();
    }
}
