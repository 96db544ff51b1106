namespace MoeSharp.Cli;

/// <summary>The routed experts of a layer with one input and its routing.</summary>
internal sealed class ExplainCase : IDisposable
{
    private readonly IDisposable _owner;

    private ExplainCase(string name, string routing, FusedExperts experts, ExpertWeights weights, int[] expertMap, RunInput input, IDisposable owner)
    {
        Name = name;
        Routing = routing;
        Experts = experts;
        Weights = weights;
        ExpertMap = expertMap;
        Input = input;
        Load = ExpertLoad.Of(Ids, expertMap, experts.Shape.Experts);
        _owner = owner;
    }

    /// <summary>As reports call it.</summary>
    public string Name { get; }

    /// <summary>How ids came about, in words.</summary>
    public string Routing { get; }

    public FusedExperts Experts { get; }

    public ExpertWeights Weights { get; }

    /// <summary>[global experts], empty when all are local.</summary>
    public int[] ExpertMap { get; }

    /// <summary>Hidden states with ids and weights.</summary>
    public RunInput Input { get; }

    public ExpertLoad Load { get; }

    /// <summary>T.</summary>
    public int Tokens => Input.Hidden.Length / Experts.HiddenSize;

    /// <summary>[T, K].</summary>
    public int[] Ids => Input.Ids!;

    /// <summary>Of the cpu backend; null on others.</summary>
    public IGemmKernel? Kernel => Experts.Backend is CpuBackend
        ? GemmKernels.All.FirstOrDefault(kernel => Experts.Description.StartsWith(kernel.Name + " ", StringComparison.Ordinal))
        : null;

    /// <summary>A layer of a checkpoint, routed by its own router.</summary>
    /// <param name="layer">Null: the first one with experts.</param>
    public static ExplainCase FromCheckpoint(
        string path, int? layer, int tokens, long? seed, MoeLayerOptions options, ChosenBackend backend, IProgress<LoadProgress>? progress, CancellationToken cancel)
    {
        using Checkpoint model = Checkpoint.Open(path); // closed at the end: the layer keeps what it maps
        int index = layer ?? model.MoeLayers.FirstOrDefault();
        LoadedLayer loaded = LoadedLayer.Open(model, index, options, progress, cancel,
            choose: parts => backend.For(MoeLayer.AllExperts(parts, options), tokens));
        (LayerParts parts, MoeLayer built) = (loaded.Parts, loaded.Layer);
        try
        {
            string name = $"{Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(path)))} layer {index}";
            string router = new LayerSummary(model.Outline(index)).RouterInWords();
            RunInput input = RunInput.Random(tokens, built.HiddenSize, seed ?? 1);
            var ids = new int[tokens * built.Router.TopK];
            var weights = new float[ids.Length];
            built.Router.Route(input.Hidden, ids, weights);
            return new(name, $"its router ({router}) on {input.Source}", built.Experts, parts.Experts, [], input with { Ids = ids, Weights = weights }, loaded);
        }
        catch
        {
            loaded.Dispose();
            throw;
        }
    }

    /// <summary>Random weights of a shape, routed by formula.</summary>
    public static ExplainCase FromShape(BenchLayer layer, RoutingKind routing, int tokens, long? seed)
    {
        ExpertsShape shape = layer.Shape;
        long routingSeed = seed ?? SyntheticRouting.DefaultSeed(routing, tokens);
        RunInput input = RunInput.Random(tokens, shape.Hidden, routingSeed);
        var ids = new int[tokens * shape.TopK];
        var weights = new float[ids.Length];
        SyntheticRouting.Fill(routing, routingSeed, shape.GlobalExperts, shape.TopK, ids, weights);
        string words = $"{(routing == RoutingKind.Zipf ? "Zipf's law" : "uniform")} by formula, seed {routingSeed}";
        return new(layer.Name, words, layer.Experts, layer.Weights, layer.ExpertMap, input with { Ids = ids, Weights = weights }, layer);
    }

    public void Dispose() => _owner.Dispose();
}
