using System.Runtime.ExceptionServices;
using System.Text.Json.Nodes;

namespace MoeSharp;

/// <summary>
/// BF16, F16 or F32 experts to FP8, named and declared as the family's published FP8 checkpoints are. A shard's FP8 weights are made in memory, side
/// by side, then written: at most the mapped shard and half of it again.
/// </summary>
internal sealed class Quantization : Conversion
{
    private readonly WeightFormat _format;
    private readonly bool _linears;
    private readonly Pieces _pieces;

    /// <exception cref="UnsupportedException">The layout has no FP8 form.</exception>
    /// <exception cref="CheckpointException">The checkpoint is quantized already, or a tensor is missing.</exception>
    public Quantization(Checkpoint model, WeightFormat format, bool linears) : base(model)
    {
        if (format == WeightFormat.Bf16) throw new ArgumentException("BF16 is not a format to quantize to.", nameof(format));
        if (model.Quantization is not null)
            throw new CheckpointException(
                $"{model.Path} is quantized already; dequantize it first, or start from the BF16 model.");
        if (model.MoeLayers.Count == 0) throw new CheckpointException($"{model.Path} has no layer with experts, so there is nothing to quantize.");
        _format = format;
        _linears = linears;
        _pieces = new(model, format, linears);
    }

    protected override string Settings => $"quantize {_format}{(_linears ? " linears" : "")}";

    private ScaleType Scales => _format == WeightFormat.MxFp8 ? ScaleType.E8M0 : Model.Family.BlockScales;

    /// <summary>Runs and returns the errors, one per layer and part.</summary>
    public IReadOnlyList<QuantizationError> Write(string output, Action<string, double>? progress = null, CancellationToken cancel = default) =>
        QuantizationError.Sum(Run(output, progress, cancel).Select(QuantizationError.FromLine));

    protected override List<TensorToWrite> Convert(
        SafetensorsFile shard, IReadOnlyList<TensorEntry> names, CancellationToken cancel, List<IDisposable> release, List<string> notes)
    {
        var tensors = new List<TensorToWrite>();
        var work = new List<(Piece Piece, TensorEntry Entry)>();
        foreach (TensorEntry entry in names)
        {
            IReadOnlyList<Piece> pieces = _pieces.In(entry.Name);
            if (pieces.Count == 0) tensors.Add(Unchanged(shard, entry, cancel));
            foreach (Piece piece in pieces) work.Add((piece, entry));
        }
        var matrices = new BlockScaledMatrix?[work.Count];
        var errors = new QuantizationError[work.Count];
        try
        {
            Parallel.For(0, work.Count, new ParallelOptions { CancellationToken = cancel, MaxDegreeOfParallelism = Environment.ProcessorCount },
                i => (matrices[i], errors[i]) = QuantizedPiece.Make(work[i].Piece, shard, work[i].Entry, _format, Scales));
        }
        catch (AggregateException e)
        {
            ExceptionDispatchInfo.Throw(e.InnerException!);
        }
        finally
        {
            release.AddRange(matrices.Where(m => m is not null).Select(m => m!.Storage.ValuesOwner));
        }
        notes.AddRange(errors.Select(e => e.ToLine()));
        foreach (IGrouping<string, int> group in Enumerable.Range(0, work.Count).GroupBy(i => work[i].Piece.Name))
            AddTensors(tensors, group.Key, [.. group.Select(i => matrices[i]!)], work[group.First()].Entry, cancel);
        return tensors;
    }

    private void AddTensors(List<TensorToWrite> tensors, string name, BlockScaledMatrix[] slices, TensorEntry entry, CancellationToken cancel)
    {
        BlockScaledMatrix first = slices[0];
        bool stacked = name == entry.Name && entry.Shape.Length == 3;
        long[] Shape(long rows, long columns) => stacked ? [slices.Length, rows, columns] : [rows, columns];
        string scaleType = Scales switch { ScaleType.E8M0 => "U8", ScaleType.BF16 => "BF16", _ => "F32" };
        tensors.Add(new(name, "F8_E4M3", Shape(first.Rows, first.Columns), stream => Each(stream, QuantizedPiece.WriteValues)));
        tensors.Add(new(
            $"{name}_scale_inv", scaleType, Shape(first.ScaleRows, first.ScaleColumns), stream => Each(stream, QuantizedPiece.WriteScales)));

        void Each(Stream stream, Action<Stream, BlockScaledMatrix> write)
        {
            foreach (BlockScaledMatrix slice in slices)
            {
                cancel.ThrowIfCancellationRequested();
                write(stream, slice);
            }
        }
    }

    protected override void Edit(JsonObject config, IReadOnlyList<string> leftAlone)
    {
        bool mx = _format == WeightFormat.MxFp8;
        var declared = new JsonObject
        {
            ["activation_scheme"] = JsonValue.Create("dynamic"),
            ["fmt"] = JsonValue.Create(mx ? "e4m3" : Model.Family.Fp8Name),
            ["quant_method"] = JsonValue.Create(mx ? "mxfp8" : "fp8"),
            ["weight_block_size"] = new JsonArray(JsonValue.Create(_format.BlockRows()), JsonValue.Create(_format.BlockColumns())),
        };
        if (_format != WeightFormat.Block128) declared["scale_fmt"] = JsonValue.Create("ue8m0");
        declared["modules_to_not_convert"] = List();
        if (mx) declared["ignored_layers"] = List(); // what published MXFP8 checkpoints call the same list
        config["quantization_config"] = declared;

        // A tied lm_head has no tensor but is a linear layer all the same.
        JsonArray List() => [.. leftAlone.Append("lm_head").Distinct().Select(module => (JsonNode)JsonValue.Create(module))];
    }
}
