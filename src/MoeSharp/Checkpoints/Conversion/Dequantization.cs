using System.Text.Json.Nodes;

namespace MoeSharp;

/// <summary>FP8 weights back to BF16, value times scale rounded once; scales and quantization_config go.</summary>
internal sealed class Dequantization : Conversion
{
    private readonly QuantizationConfig _quantization;

    /// <exception cref="CheckpointException">Nothing is quantized.</exception>
    public Dequantization(Checkpoint model) : base(model) =>
        _quantization = model.Quantization
            ?? throw new CheckpointException($"{model.Path} declares no quantization_config, so there is nothing to dequantize.");

    protected override string Settings => "dequantize";

    /// <summary>Runs and returns how many tensors have been dequantized.</summary>
    public int Write(string output, Action<string, double>? progress = null, CancellationToken cancel = default) =>
        Run(output, progress, cancel).Count;

    protected override List<TensorToWrite> Convert(
        SafetensorsFile shard, IReadOnlyList<TensorEntry> names, CancellationToken cancel, List<IDisposable> release, List<string> notes)
    {
        var tensors = new List<TensorToWrite>();
        foreach (TensorEntry entry in names)
        {
            if (IsScale(entry.Name)) continue;
            if (entry.Type == "F8_E4M3")
            {
                notes.Add(entry.Name);
                var source = DequantizedTensor.Open(Model.Index, shard, entry, _quantization.Format);
                tensors.Add(new(entry.Name, "BF16", entry.Shape, stream => source.Write(stream, cancel)));
            }
            else
            {
                tensors.Add(Unchanged(shard, entry, cancel));
            }
        }
        return tensors;
    }

    protected override void Edit(JsonObject config, IReadOnlyList<string> leftAlone)
    {
        foreach (JsonObject part in new[] { config, config["text_config"] as JsonObject }.OfType<JsonObject>())
        {
            part.Remove("quantization_config");
            part.Remove("compression_config");
        }
    }

    private bool IsScale(string name)
    {
        foreach (string suffix in new[] { "_scale_inv", "_scales_inv", "_scale" })
            if (name.EndsWith(suffix, StringComparison.Ordinal) && Model.Index.Has(name[..^suffix.Length]))
                return Model.Index.Find(name[..^suffix.Length]).Entry.Type == "F8_E4M3";
        return false;
    }
}
