using System.Globalization;

namespace MoeSharp;

/// <summary>Reads one MoE layer by its family's table and accounts for every tensor of the block.</summary>
internal sealed class LayerReader
{
    private readonly Checkpoint _model;
    private readonly int _layer;
    private readonly Family _family;
    private readonly ModelConfig _config;
    private readonly string _block;
    private readonly HashSet<string> _used = [];
    private readonly MatrixReader _matrices;

    public LayerReader(Checkpoint model, int layer)
    {
        _model = model;
        _layer = layer;
        _family = model.Family;
        _config = model.Config;
        _block = model.BlockPrefix(layer);
        _matrices = new(model.Index, _config, model.Quantization, _used);
    }

    public LayerParts Read(LayerSelection selection, LoadContext context = default)
    {
        RouterOptions router = _family.RouterOf(_config);
        int hidden = _model.HiddenSize, intermediate = Family.Intermediate(_config), experts = router.Experts;
        (int firstExpert, int count) = CheckSlice(selection.Experts, experts, "experts");
        (int firstRow, int rows) = CheckSlice(selection.Intermediate, intermediate, "intermediate rows");
        bool withShared = firstExpert == 0 && firstRow == 0; // one rank of all that callers sum over
        Activation activation = _family.Activation(_config, _layer);
        var layout = new ExpertLayout(_model.Index, _family, _block, experts, activation.Interleaved);
        ExpertWeights? weights = null, shared = null;
        try
        {
            weights = ReadExperts(layout, firstExpert, count, hidden, intermediate, firstRow, rows, context);
            shared = withShared ? ReadShared(hidden) : null;
            var parts = new LayerParts
            {
                Layer = _layer,
                Router = router,
                RouterWeight = _matrices.ReadTable(_block + _family.RouterWeight, experts, hidden, finite: true),
                RouterLogitBias = Bias(_family.RouterLogitBias, experts, needed: true),
                RouterCorrectionBias = Bias(_family.RouterCorrectionBias, experts, _family.NeedsCorrectionBias(_config)),
                Experts = weights,
                ExpertsOptions = new() { TopK = router.TopK, Activation = activation, GlobalExperts = experts },
                ExpertMap = count == experts ? null : [.. Enumerable.Range(0, experts).Select(g => g >= firstExpert && g < firstExpert + count ? g - firstExpert : -1)],
                SharedExperts = shared,
                SharedActivation = _family.SharedActivation(_config, _layer),
                SharedGate = shared is not null && _family.SharedGate is { } gate ? _matrices.ReadTable(_block + gate, 1, hidden, finite: true) : null,
            };
            Account(layout, firstExpert, count, withShared);
            return parts;
        }
        catch
        {
            weights?.Dispose();
            shared?.Dispose();
            throw;
        }
    }

    private ExpertWeights ReadExperts(
        ExpertLayout layout, int first, int count, int hidden, int intermediate, int firstRow, int rows, LoadContext context)
    {
        var gate = new BlockScaledMatrix[count];
        var up = new BlockScaledMatrix[count];
        var down = new BlockScaledMatrix[count];
        int leading = firstRow % LeadingBlock(layout, first);
        try
        {
            for (int e = 0; e < count; e++)
            {
                context.Step(LoadStage.Read, e, count);
                gate[e] = _matrices.Read(layout.Gate(first + e), intermediate, hidden, new(firstRow, rows, 0, hidden), leading, 0);
                up[e] = _matrices.Read(layout.Up(first + e), intermediate, hidden, new(firstRow, rows, 0, hidden), leading, 0);
                down[e] = _matrices.Read(layout.Down(first + e), hidden, intermediate, new(0, hidden, firstRow, rows), 0, leading);
            }
            context.Step(LoadStage.Read, count, count);
            ExpertBiases? biases = ReadBiases(layout, first, count, hidden, intermediate, firstRow, rows);
            return new(gate, up, down, biases) { Source = Source($"experts {first} {count}, intermediate {firstRow} {rows}") };
        }
        catch
        {
            ExpertWeights.Free([.. gate, .. up, .. down]);
            throw;
        }
    }

    /// <summary>The part of the layer; each tensor read so far with its place; and name, size and time of their files and of the config.</summary>
    private string Source(string part)
    {
        var text = new System.Text.StringBuilder($"{part}\n{Identity(_config.Path)}");
        var seen = new HashSet<SafetensorsFile>();
        foreach (string name in _used.Order(StringComparer.Ordinal))
        {
            (SafetensorsFile file, TensorEntry entry) = _model.Index.Find(name);
            if (seen.Add(file)) text.Append('\n').Append(Identity(file.Path));
            text.Append(CultureInfo.InvariantCulture, $"\n{name} {entry.Type} {entry.ShapeText} {entry.Offset}");
        }
        return text.ToString();
    }

    private static string Identity(string path)
    {
        var file = new FileInfo(File.ResolveLinkTarget(path, returnFinalTarget: true)?.FullName ?? path);
        return string.Create(CultureInfo.InvariantCulture, $"{Path.GetFileName(path)} {file.Length} {file.LastWriteTimeUtc.Ticks}");
    }

    /// <summary>Slices of I start at multiples of the scale block that down's columns have.</summary>
    private int LeadingBlock(ExpertLayout layout, int expert)
    {
        (_, TensorEntry entry) = _model.Index.Find(layout.Down(expert).Values);
        return entry.Type == "BF16" || _model.Quantization is null ? 1 : _model.Quantization.Format.BlockColumns();
    }

    private ExpertBiases? ReadBiases(ExpertLayout layout, int first, int count, int hidden, int intermediate, int firstRow, int rows)
    {
        if (layout.GateUpBias is null) return null;
        float[] gateUp = _matrices.ReadTable(layout.GateUpBias, layout.Experts, 2L * intermediate, finite: true);
        float[] downAll = _matrices.ReadTable(layout.DownBias!, layout.Experts, hidden, finite: true);
        var gate = new float[count * rows];
        var up = new float[count * rows];
        for (int e = 0; e < count; e++)
        {
            for (int i = 0; i < rows; i++)
            {
                int row = (first + e) * 2 * intermediate, g = layout.Interleaved ? 2 * (firstRow + i) : firstRow + i;
                gate[e * rows + i] = gateUp[row + g];
                up[e * rows + i] = gateUp[row + (layout.Interleaved ? g + 1 : g + intermediate)];
            }
        }
        float[] down = firstRow == 0 ? downAll[(first * hidden)..((first + count) * hidden)] : new float[count * hidden];
        return new(gate, up, down);
    }

    private ExpertWeights? ReadShared(int hidden)
    {
        int intermediate = _family.SharedIntermediate(_config);
        if (_family.Shared is null || intermediate == 0) return null;
        string at = _model.SharedPrefix(_layer);
        BlockScaledMatrix Read(string projection, int rows, int columns)
        {
            string name = $"{at}{projection}.weight";
            return _matrices.Read(new(name, ExpertLayout.ScaleOf(_model.Index, name)), rows, columns, new(0, rows, 0, columns), 0, 0);
        }
        (string gate, string up, string down) = _model.Index.HasAnyUnder($"{at}gate_proj.") || _model.Index.HasAnyUnder($"{at}down_proj.") ? ("gate_proj", "up_proj", "down_proj") : _family.Projections;
        return new([Read(gate, intermediate, hidden)], [Read(up, intermediate, hidden)], [Read(down, hidden, intermediate)]);
    }

    private float[]? Bias(string? name, int experts, bool needed) =>
        name is null || (!needed && !_model.Index.Has(_block + name)) ? null : _matrices.ReadVector(_block + name, experts, finite: true);

    /// <summary>Every tensor of the block is used, belongs to an expert or rows that were not asked for, is ignored by rule, or is an error.</summary>
    private void Account(ExpertLayout layout, int firstExpert, int count, bool withShared)
    {
        string shared = _family.Shared is null ? "" : _model.SharedPrefix(_layer);
        foreach (string name in _model.Index.Names)
        {
            bool inShared = shared.Length > 0 && name.StartsWith(shared, StringComparison.Ordinal);
            if (!inShared && !name.StartsWith(_block, StringComparison.Ordinal)) continue;
            if (_used.Contains(name) || layout.OwnsOutside(name, firstExpert, count) || (inShared && !withShared)) continue;
            if (_family.SharedGate is { } gate && !withShared && name == _block + gate) continue;
            if (_family.Ignored.Any(i => name == _block + i)) continue;
            throw new CheckpointException($"{name} belongs to the MoE block of layer {_layer} but {_family.Name} has no such tensor; the checkpoint may be of another kind.");
        }
    }

    private static (int First, int Count) CheckSlice((int First, int Count)? slice, int all, string what)
    {
        if (slice is not (int first, int count)) return (0, all);
        if (first < 0 || count < 1 || first > all - count) throw new ArgumentException($"The slice {first} .. {(long)first + count - 1} of {what} does not lie in 0 .. {all - 1}.");
        return (first, count);
    }
}
