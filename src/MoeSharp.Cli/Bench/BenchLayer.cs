namespace MoeSharp.Cli;

/// <summary>A layer's routed experts and what timing them needs to know: which experts are here, and their weights.</summary>
internal sealed class BenchLayer : IDisposable
{
    private readonly IDisposable[] _held;

    /// <param name="name">As reports call it.</param>
    /// <param name="options">Of the experts.</param>
    /// <param name="weights">Of the experts.</param>
    /// <param name="expertMap">[global experts], empty when all are local.</param>
    /// <param name="backend">Null: the library chooses.</param>
    /// <param name="context">Who watches and who may stop it.</param>
    /// <param name="held">Disposed with this, also when construction fails.</param>
    private BenchLayer(string name, ExpertsOptions options, ExpertWeights weights, int[] expertMap, IExpertsBackend? backend, LoadContext context,
        params IDisposable[] held)
    {
        Name = name;
        _held = held;
        ExpertMap = expertMap;
        Weights = weights;
        try
        {
            Experts = new FusedExperts(options, weights, backend, context);
        }
        catch
        {
            foreach (IDisposable owned in held) owned.Dispose();
            throw;
        }
    }

    /// <summary>As reports call it.</summary>
    public string Name { get; }

    public FusedExperts Experts { get; }

    /// <summary>[global experts], empty when all are local.</summary>
    public int[] ExpertMap { get; }

    public ExpertWeights Weights { get; }

    /// <summary>Of all experts' values and scales.</summary>
    public long Bytes => Weights.Gate.Concat(Weights.Up).Concat(Weights.Down).Sum(matrix => matrix.Bytes);

    public ExpertsShape Shape => Experts.Shape;

    /// <summary>Random weights of a shape.</summary>
    /// <exception cref="ArgumentException">They would not fit into memory.</exception>
    public static BenchLayer Random(BenchShape shape, WeightFormat format, ActivationFormat? activations, IExpertsBackend? backend,
        CancellationToken cancel, IProgress<LoadProgress>? progress = null)
    {
        CheckMemory(shape, format, copies: ReferenceEquals(backend, ExpertsBackends.Reference) ? 1 : 2);
        ExpertWeights weights = SyntheticWeights.Create(shape, format, cancel);
        return new(shape.Name, Options(shape, activations), weights, shape.ExpertMap(), backend, new(null, progress, cancel), weights);
    }

    /// <summary>Of a shape's experts.</summary>
    public static ExpertsOptions Options(BenchShape shape, ActivationFormat? activations) =>
        new() { TopK = shape.TopK, Activation = shape.Activation, Activations = activations, GlobalExperts = shape.Experts };

    /// <summary>A layer of a checkpoint.</summary>
    /// <param name="path">The checkpoint's folder.</param>
    /// <param name="layer">Null: the first one with experts.</param>
    /// <param name="activations">Null: what suits the weights.</param>
    /// <param name="backend">Null: the library chooses.</param>
    /// <param name="progress">Null: nobody watches.</param>
    /// <param name="cancel">Nothing is left behind.</param>
    public static BenchLayer FromCheckpoint(
        string path, int? layer, ActivationFormat? activations, IExpertsBackend? backend, IProgress<LoadProgress>? progress, CancellationToken cancel)
    {
        using Checkpoint model = Checkpoint.Open(path); // closed at the end: the parts keep what they map
        LayerParts parts = model.ReadLayer(layer ?? model.MoeLayers.FirstOrDefault(), null, progress, cancel);
        string name = $"{Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(path)))} layer {parts.Layer}";
        return new(name, parts.ExpertsOptions with { Activations = activations ?? parts.ExpertsOptions.Activations }, parts.Experts, [], backend,
            new(parts.Layer, progress, cancel), parts);
    }

    /// <summary>A backend that lays weights out in an order of its own holds them a second time.</summary>
    private static void CheckMemory(BenchShape shape, WeightFormat format, int copies)
    {
        const long ceilings = 1L << 30;
        long bytes = SyntheticWeights.Bytes(shape, format), available = Machine.AvailableMemory();
        if (bytes > (0.95 * available - ceilings) / copies)
            throw new ArgumentException(
                $"The experts of {shape.Name} in {Names.Of(format)} are {Units.Bytes(bytes)}, held " +
                    $"{(copies == 2 ? "twice while they are laid out" : "once")}, "
                + $"but {Units.Bytes(available)} of memory are available; choose a smaller shape.");
    }

    public void Dispose()
    {
        Experts.Dispose();
        foreach (IDisposable owned in _held) owned.Dispose();
    }
}
