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
                ExpertMap = count == experts
                    ? null
                    : [.. Enumerable.Range(0, experts).Select(g => g >= firstExpert && g < firstExpert + count ? g - firstExpert : -1)],
                SharedExperts = shared,
                SharedActivation = _family.SharedActivation(_config, _layer),
                SharedGate = shared is not null && _family.SharedGate is { } gate
                    ? _matrices.ReadTable(_block + gate, 1, hidden, finite: true)
                    : null,
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

    /// <summary>The layer by what headers say, as strictly as when it is read.</summary>
    public LayerOutline Outline()
    {
        RouterOptions router = _family.RouterOf(_config);
        int hidden = _model.HiddenSize, experts = router.Experts, sharedIntermediate = _model.SharedIntermediateSize;
        Activation activation = _family.Activation(_config, _layer);
        var layout = new ExpertLayout(_model.Index, _family, _block, experts, activation.Interleaved);
        var routed = new Sources(layout.Gate, layout.Up, layout.Down, activation, layout.GateUpBias is not null);
        MatricesOutline? shared = null;
        if (sharedIntermediate > 0)
        {
            (MatrixSource gate, MatrixSource up, MatrixSource down) = SharedSources();
            shared = Outline(new(_ => gate, _ => up, _ => down, _family.SharedActivation(_config, _layer), false), 1, hidden, sharedIntermediate);
        }
        MatricesOutline outline = Outline(routed, experts, hidden, Family.Intermediate(_config));
        _matrices.Describe(_block + _family.RouterWeight, experts, hidden);
        if (_family.RouterLogitBias is { } logit) _matrices.Describe(_block + logit, null, experts);
        bool hasCorrection = _family.RouterCorrectionBias is { } name && (_family.NeedsCorrectionBias(_config) || _model.Index.Has(_block + name));
        if (hasCorrection) _matrices.Describe(_block + _family.RouterCorrectionBias, null, experts);
        if (layout.GateUpBias is { } gateUpBias) _matrices.Describe(gateUpBias, experts, 2L * Family.Intermediate(_config));
        if (layout.DownBias is { } downBias) _matrices.Describe(downBias, experts, hidden);
        bool isGated = shared is not null && _family.SharedGate is not null;
        if (isGated) _matrices.Describe(_block + _family.SharedGate, 1, hidden);
        Account(layout, 0, experts, withShared: true);
        return new()
        {
            Router = router,
            HasLogitBias = _family.RouterLogitBias is not null,
            HasCorrectionBias = hasCorrection,
            Experts = outline,
            Shared = shared,
            IsSharedGated = isGated,
            Tensors = _used.Count,
        };
    }

    private readonly record struct Sources(
        Func<int, MatrixSource> Gate, Func<int, MatrixSource> Up, Func<int, MatrixSource> Down, Activation Activation, bool HasBiases);

    private MatricesOutline Outline(Sources of, int experts, int hidden, int intermediate)
    {
        var tensors = new HashSet<string>();
        (WeightFormat Format, ScaleType Scales)? first = null;
        void Add(MatrixSource source, int rows, int columns)
        {
            (WeightFormat Format, ScaleType Scales) described = _matrices.Describe(source, rows, columns);
            first ??= described;
            if (described.Format != first.Value.Format)
                throw new CheckpointException(
                    $"{source.Values} is {described.Format} but other experts of layer {_layer} are {first.Value.Format}; a layer has one format.");
            tensors.Add(source.Values);
            if (source.Scales is not null && described.Format != WeightFormat.Bf16) tensors.Add(source.Scales);
        }

        for (int e = 0; e < experts; e++)
        {
            Add(of.Gate(e), intermediate, hidden);
            Add(of.Up(e), intermediate, hidden);
            Add(of.Down(e), hidden, intermediate);
        }
        return new(experts, hidden, intermediate)
        {
            Format = first!.Value.Format,
            Scales = first.Value.Scales,
            Activation = of.Activation,
            HasBiases = of.HasBiases,
            Bytes = tensors.Sum(t => _model.Index.Find(t).Entry.Bytes),
        };
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
        BlockScaledMatrix Read(MatrixSource source, int rows, int columns) => _matrices.Read(source, rows, columns, new(0, rows, 0, columns), 0, 0);
        (MatrixSource gate, MatrixSource up, MatrixSource down) = SharedSources();
        return new([Read(gate, intermediate, hidden)], [Read(up, intermediate, hidden)], [Read(down, hidden, intermediate)]);
    }

    private (MatrixSource Gate, MatrixSource Up, MatrixSource Down) SharedSources()
    {
        string at = _model.SharedPrefix(_layer);
        bool isSpelledOut = _model.Index.HasAnyUnder($"{at}gate_proj.") || _model.Index.HasAnyUnder($"{at}down_proj.");
        (string gate, string up, string down) = isSpelledOut ? ("gate_proj", "up_proj", "down_proj") : _family.Projections;
        MatrixSource Source(string projection) => new($"{at}{projection}.weight", ExpertLayout.ScaleOf(_model.Index, $"{at}{projection}.weight"));
        return (Source(gate), Source(up), Source(down));
    }

    private float[]? Bias(string? name, int experts, bool needed) =>
        name is null || (!needed && !_model.Index.Has(_block + name)) ? null : _matrices.ReadVector(_block + name, experts, finite: true);

    /// <summary>Every tensor of the block is used, belongs to an expert or rows that were not asked for, is ignored by rule, or is an
    /// error.</summary>
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
            throw new CheckpointException(
                $"{name} belongs to the MoE block of layer {_layer} but {_family.Name} has no such tensor; the checkpoint may be of another kind.");
        }
    }

    private static (int First, int Count) CheckSlice((int First, int Count)? slice, int all, string what)
    {
        if (slice is not (int first, int count)) return (0, all);
        if (first < 0 || count < 1 || first > all - count)
            throw new ArgumentException($"The slice {first} .. {(long)first + count - 1} of {what} does not lie in 0 .. {all - 1}.");
        return (first, count);
    }
}
