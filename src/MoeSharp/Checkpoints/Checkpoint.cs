using Microsoft.Extensions.Logging;

namespace MoeSharp;

/// <summary>A Hugging Face folder: config.json and safetensors files. Opening reads names and sizes; weights are touched when a layer is
/// read.</summary>
public sealed class Checkpoint : IDisposable
{
    internal static readonly string[] Prefixes = ["model.", "model.language_model.", "language_model.model.", "language_model.", ""];
    private readonly string _prefix;

    private Checkpoint(string path, ModelConfig config, TensorIndex index)
    {
        Path = path;
        Config = config;
        Index = index;
        Family = Families.Of(config);
        Quantization = QuantizationConfig.Read(config);
        HiddenSize = Family.Hidden(config);
        LayerCount = Family.Layers(config);
        MoeLayers = [.. Enumerable.Range(0, LayerCount).Where(l => Family.IsMoe(config, l))];
        _prefix = Prefixes.FirstOrDefault(p => MoeLayers.Count > 0 && index.HasAnyUnder($"{p}layers.{MoeLayers[0]}.{Family.Block}.")) ?? Prefixes[0];
    }

    /// <summary>The folder.</summary>
    public string Path { get; }

    /// <summary>Family as this library calls it.</summary>
    public string FamilyName => Family.Name;

    /// <summary>H.</summary>
    public int HiddenSize { get; }

    /// <summary>Decoder layers, with and without experts.</summary>
    public int LayerCount { get; }

    /// <summary>Indices of the layers that have a MoE block.</summary>
    public IReadOnlyList<int> MoeLayers { get; }

    /// <summary>What the config declares for weights; null when nothing is quantized.</summary>
    public WeightFormat? QuantizedFormat => Quantization?.Format;

    /// <summary>What is odd about the files but harms nothing.</summary>
    public IReadOnlyList<string> Warnings => Index.Warnings;

    internal ModelConfig Config { get; }
    internal TensorIndex Index { get; }
    internal Family Family { get; }
    internal QuantizationConfig? Quantization { get; }

    /// <summary>Opens a folder.</summary>
    /// <param name="path">Holds config.json and the safetensors files.</param>
    /// <param name="logger">Hears what was found and every one of <see cref="Warnings"/>; null: nobody.</param>
    /// <exception cref="CheckpointException">Something is missing, malformed or not supported; the message says what and where.</exception>
    public static Checkpoint Open(string path, ILogger? logger = null)
    {
        if (!Directory.Exists(path))
            throw new CheckpointException(
                File.Exists(path)
                    ? $"{path} is a file; give the folder that holds config.json and the safetensors files."
                    : $"{path} does not exist.");
        ModelConfig config = ModelConfig.Read(System.IO.Path.Combine(path, "config.json"));
        TensorIndex index = TensorIndex.Open(path);
        try
        {
            index.OpenPresentFiles();
            var checkpoint = new Checkpoint(path, config, index);
            if (logger is not null) checkpoint.Describe(logger);
            return checkpoint;
        }
        catch
        {
            index.Dispose();
            throw;
        }
    }

    /// <summary>Reads a layer's MoE block, mapping only what the selection needs.</summary>
    /// <exception cref="ArgumentException">The layer or the selection does not exist.</exception>
    /// <exception cref="CheckpointException">A tensor is missing, superfluous, or not of the expected shape or type.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancellation"/> asked for it; nothing is left behind.</exception>
    public LayerParts ReadLayer(
        int layer, LayerSelection? selection = null, IProgress<LoadProgress>? progress = null, CancellationToken cancellation = default)
    {
        CheckLayer(layer);
        return new LayerReader(this, layer).Read(selection ?? LayerSelection.All, new(layer, progress, cancellation));
    }

    /// <summary>What headers say of a layer; touches no weights.</summary>
    internal LayerOutline Outline(int layer)
    {
        CheckLayer(layer);
        return new LayerReader(this, layer).Outline();
    }

    /// <summary>The router of every MoE layer.</summary>
    public RouterOptions Router => Family.RouterOf(Config);

    /// <summary>I of the routed experts.</summary>
    public int IntermediateSize => Family.Intermediate(Config);

    /// <summary>I of the shared experts; 0 without.</summary>
    public int SharedIntermediateSize => Family.Shared is null ? 0 : Family.SharedIntermediate(Config);

    /// <summary>The activation of a layer's routed experts.</summary>
    public Activation ActivationOf(int layer)
    {
        CheckLayer(layer);
        return Family.Activation(Config, layer);
    }

    private void Describe(ILogger logger)
    {
        Log.CheckpointOpened(logger, Path, FamilyName, MoeLayers.Count, LayerCount, QuantizedFormat);
        foreach (string warning in Warnings) Log.CheckpointIsOdd(logger, warning);
    }

    internal string BlockPrefix(int layer) => Family.BlockPrefix(_prefix, layer);

    internal string SharedPrefix(int layer) => Family.SharedPrefix(_prefix, layer);

    private void CheckLayer(int layer)
    {
        if (layer < 0 || layer >= LayerCount) throw new ArgumentException($"Layer {layer} does not exist: {Path} has layers 0 .. {LayerCount - 1}.");
        if (!MoeLayers.Contains(layer))
            throw new ArgumentException($"Layer {layer} of {Path} has no experts; the layers that have are {Span(MoeLayers)}.");
    }

    private static string Span(IReadOnlyList<int> layers) =>
        layers.Count == 0 ? "none" : layers.Count <= 8 ? string.Join(", ", layers) : $"{layers[0]} .. {layers[^1]}";

    /// <summary>Unmaps the files, once the layers read from them are disposed too.</summary>
    public void Dispose() => Index.Dispose();
}
