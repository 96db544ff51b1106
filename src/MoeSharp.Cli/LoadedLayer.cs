using System.Diagnostics;

namespace MoeSharp.Cli;

/// <summary>A layer and the parts that it was built from.</summary>
internal sealed class LoadedLayer : IDisposable
{
    private LoadedLayer(LayerParts parts, MoeLayer layer, TimeSpan time)
    {
        Parts = parts;
        Layer = layer;
        Time = time;
    }

    public LayerParts Parts { get; }

    public MoeLayer Layer { get; }

    /// <summary>What reading and laying out took.</summary>
    public TimeSpan Time { get; }

    /// <summary>Of the experts' weights, shared ones included, in the files.</summary>
    public long Bytes => Parts.Experts.Bytes + (Parts.SharedExperts?.Bytes ?? 0);

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
        long started = Stopwatch.GetTimestamp();
        LayerParts parts = model.ReadLayer(index, options.Selection, progress, cancel);
        try
        {
            if (convert is not null) parts = convert(parts);
            if (choose is not null) options = options with { Backend = choose(parts) };
            var layer = new MoeLayer(parts, options, new LoadContext(index, progress, cancel));
            return new(parts, layer, Stopwatch.GetElapsedTime(started));
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
