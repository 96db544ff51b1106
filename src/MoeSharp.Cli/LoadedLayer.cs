namespace MoeSharp.Cli;

/// <summary>A layer and the parts that it was built from.</summary>
internal sealed class LoadedLayer : IDisposable
{
    private LoadedLayer(LayerParts parts, MoeLayer layer)
    {
        Parts = parts;
        Layer = layer;
    }

    public LayerParts Parts { get; }

    public MoeLayer Layer { get; }

    /// <summary>Reads a layer, does something with its parts, and builds it.</summary>
    /// <param name="model">May be closed afterwards.</param>
    /// <param name="index">Decoder layer.</param>
    /// <param name="options">Of the layer.</param>
    /// <param name="progress">Null: nobody watches.</param>
    /// <param name="cancel">Nothing is left behind.</param>
    /// <param name="convert">Takes the parts over and gives others; null leaves them.</param>
    /// <param name="choose">What computes these parts; null leaves it to <paramref name="options"/>.</param>
    public static LoadedLayer Open(Checkpoint model, int index, MoeLayerOptions options, IProgress<LoadProgress>? progress, CancellationToken cancel,
        Func<LayerParts, LayerParts>? convert = null, Func<LayerParts, IExpertsBackend?>? choose = null)
    {
        LayerParts parts = model.ReadLayer(index, options.Selection, progress, cancel);
        try
        {
            if (convert is not null) parts = convert(parts);
            if (choose is not null) options = options with { Backend = choose(parts) };
            return new(parts, new MoeLayer(parts, options, new LoadContext(index, progress, cancel)));
        }
        catch
        {
            parts.Dispose();
            throw;
        }
    }

    /// <summary>The layer owns its parts.</summary>
    public void Dispose() => Layer.Dispose();
}
