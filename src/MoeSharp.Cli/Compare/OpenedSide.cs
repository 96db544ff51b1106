namespace MoeSharp.Cli;

/// <summary>A side whose layer is loaded and ready to run.</summary>
internal sealed class OpenedSide : IDisposable
{
    private readonly ChosenBackend? _backend;

    private OpenedSide(string model, WeightFormat stored, MoeLayer layer, ChosenBackend? backend)
    {
        Model = model;
        Stored = stored;
        Layer = layer;
        _backend = backend;
    }

    public string Model { get; }

    /// <summary>What the checkpoint has.</summary>
    public WeightFormat Stored { get; }

    public MoeLayer Layer { get; }

    /// <summary>Why auto took a GPU, or why not; null where something was asked for by name.</summary>
    public string? Chosen => _backend?.Reason;

    /// <summary>Loads, and converts where the side says so.</summary>
    /// <param name="tokens">Of a call.</param>
    /// <param name="threads">Of the cpu backend.</param>
    /// <param name="kernel">Of the cpu backend, where the side names none.</param>
    public static OpenedSide Open(string model, int layer, Side side, int tokens, int? threads, string? kernel, IProgress<LoadProgress>? progress, CancellationToken cancel)
    {
        var backend = side.MayUseCpu ? new ChosenBackend(side.Backend, threads, side.Kernel ?? kernel) : new ChosenBackend(side.Backend, null, null);
        try
        {
            // NaN is a finding here, not a reason to stop.
            return Open(model, layer, side, new() { Activations = side.Activations, AllowNaNWeights = true }, backend, tokens, progress, cancel);
        }
        catch
        {
            backend.Dispose();
            throw;
        }
    }

    /// <summary>The first value of this side that is NaN or infinite.</summary>
    public static FiniteFinding? FindNonFinite(string model, int layer, Side side, RunInput input, int[] ids, float[] weights, CancellationToken cancel)
    {
        var search = new FiniteSearch();
        using OpenedSide watched = Open(model, layer, side, search.Options(new() { Activations = side.Activations }), null, 0, null, cancel);
        return search.Run(watched.Layer, input.Hidden, ids, weights, expertsOnly: false);
    }

    private static OpenedSide Open(string path, int layer, Side side, MoeLayerOptions options, ChosenBackend? backend, int tokens, IProgress<LoadProgress>? progress, CancellationToken cancel)
    {
        using Checkpoint model = Checkpoint.Open(path); // closed at the end: the parts keep what they map
        WeightFormat format = default;
        LoadedLayer loaded = LoadedLayer.Open(model, layer, options, progress, cancel, stored =>
        {
            format = stored.Experts.Format;
            return ConvertedLayer.To(stored, side.Format, cancel);
        }, backend is null ? null : parts => backend.For(MoeLayer.AllExperts(parts, options), tokens));
        return new(path, format, loaded.Layer, backend);
    }

    public string InWords()
    {
        ExpertsShape shape = Layer.Experts.Shape;
        string converted = shape.Format == Stored ? "" : $" made from {Names.Of(Stored)}";
        return $"{Model}: {Names.Of(shape.Format)} weights{converted}, {Names.Of(shape.Activations)} activations, {Layer.Experts.Backend.Name}";
    }

    public void Dispose()
    {
        Layer.Dispose();
        _backend?.Dispose();
    }
}
