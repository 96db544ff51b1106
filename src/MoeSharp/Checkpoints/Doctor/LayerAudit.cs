using System.Globalization;

namespace MoeSharp;

/// <summary>Holds the names of one layer's block against its family's table and lists the slabs to scan.</summary>
internal sealed class LayerAudit
{
    /// <summary>Missing tensors of a layer that are named; the rest is counted, since a config may claim any number of experts.</summary>
    private const int MostMissing = 100;

    private readonly ShardSurvey _shards;
    private readonly Family _family;
    private readonly ModelConfig _config;
    private readonly int _layer;
    private readonly string _block;
    private readonly string? _shared;
    private readonly string[] _names = [];
    private readonly HashSet<string> _expected = [];
    private readonly Dictionary<string, int?> _missing = [];
    private int _moreMissing;
    private readonly List<(string Name, long[] Shape)> _tables = [];
    private readonly HashSet<(string, int)> _slabs = [];

    /// <param name="shards">The files.</param>
    /// <param name="family">Its table.</param>
    /// <param name="config">config.json.</param>
    /// <param name="prefix">What precedes "layers." in names.</param>
    /// <param name="layer">Decoder layer with experts.</param>
    /// <param name="namesOfLayer">Names of that layer.</param>
    public LayerAudit(ShardSurvey shards, Family family, ModelConfig config, string prefix, int layer, IReadOnlyCollection<string> namesOfLayer)
    {
        (_shards, _family, _config, _layer) = (shards, family, config, layer);
        _block = family.BlockPrefix(prefix, layer);
        if (family.Shared is not null && family.SharedIntermediate(config) > 0) _shared = family.SharedPrefix(prefix, layer);
        _names = [.. namesOfLayer.Where(IsOfBlock)];
        if (_names.Length == 0) return; // one finding; a config may claim any number of layers
        TensorIndex names = shards.NameIndex;
        int hidden = Family.Hidden(config), experts = family.RouterOf(config).Experts;
        Table(names, _block + family.RouterWeight, [experts, hidden], isOptional: false);
        if (family.RouterLogitBias is { } logit) Table(names, _block + logit, [experts], isOptional: false);
        if (family.RouterCorrectionBias is { } correction)
            Table(names, _block + correction, [experts], isOptional: !family.NeedsCorrectionBias(config));
        ListExperts(names, experts, hidden, Family.Intermediate(config));
        int shared = family.Shared is null ? 0 : family.SharedIntermediate(config);
        if (shared > 0) ListShared(names, hidden, shared);
    }

    /// <summary>What to scan; of a stacked tensor the first slice stands for all, since a config may claim any number of experts.</summary>
    public List<Slab> Slabs { get; } = [];

    /// <summary>Optional tensors that are here, relative to the block: where one layer has them, all should.</summary>
    public HashSet<string> Optional { get; } = [];

    /// <summary>Missing, superfluous and misnamed tensors, and routers and biases that are not finite.</summary>
    public void Report(IReadOnlySet<string> optionalElsewhere, Action<Finding> report)
    {
        if (_names.Length == 0)
        {
            if (_shards.KnowsAllNames)
                report(new(FindingCode.TensorMissing, $"The MoE block of layer {_layer} is missing: no tensor's name starts with {_block}.",
                    new(null, null, _layer)));
            return;
        }
        foreach (string relative in optionalElsewhere.Except(Optional)) Miss(_block + relative, null);
        List<string> extra = [.. _names.Where(n => !_expected.Contains(n) && !_family.Ignored.Any(i => n == _block + i))];
        if (_shards.KnowsAllNames)
        {
            foreach (string name in extra.ToArray())
            {
                if (SimilarTo(name) is not { } meant) continue;
                extra.Remove(name);
                report(new(FindingCode.TensorMisnamed, $"{meant} is missing and {name} looks like it.", At(name, _missing[meant])));
                _missing.Remove(meant);
            }
            foreach ((string name, int? expert) in _missing)
                report(new(FindingCode.TensorMissing, $"{name} is missing.", new(null, name, _layer, expert)));
            if (_moreMissing > 0)
                report(new(FindingCode.TensorMissing, $"{_moreMissing} more tensors of the MoE block of layer {_layer} are missing.",
                    new(null, null, _layer)));
        }
        foreach (string name in extra)
            report(new(FindingCode.TensorExtra, $"{name} belongs to the MoE block of layer {_layer}, but {_family.Name} with this config has no " +
                "such tensor.", At(name, ExpertOf(name))));
        foreach ((string name, long[] shape) in _tables) CheckTable(name, shape, report);
    }

    private void Table(TensorIndex names, string name, long[] shape, bool isOptional)
    {
        if (names.Has(name))
        {
            _expected.Add(name);
            _tables.Add((name, shape));
            if (isOptional) Optional.Add(name[_block.Length..]);
        }
        else if (!isOptional)
        {
            Miss(name, null);
        }
    }

    private void Miss(string name, int? expert)
    {
        if (_missing.Count < MostMissing) _missing.TryAdd(name, expert);
        else _moreMissing++;
    }

    private void ListExperts(TensorIndex names, int experts, int hidden, int intermediate)
    {
        var layout = new ExpertLayout(names, _family, _block, experts, _family.Activation(_config, _layer).Interleaved);
        for (int e = 0; e < (layout.Down(0).Stacked < 0 ? experts : 1); e++)
        {
            Add(names, layout.Gate(e), e, intermediate, hidden);
            Add(names, layout.Up(e), e, intermediate, hidden);
            Add(names, layout.Down(e), e, hidden, intermediate);
        }
        if (layout.GateUpBias is null) return;
        Table(names, layout.GateUpBias, [experts, 2L * intermediate], isOptional: true);
        Table(names, layout.DownBias!, [experts, hidden], isOptional: false);
    }

    private void ListShared(TensorIndex names, int hidden, int intermediate)
    {
        if (_family.SharedGate is { } sharedGate) Table(names, _block + sharedGate, [1, hidden], isOptional: false);
        (string gate, string up, string down) = names.HasAnyUnder($"{_shared}gate_proj.") || names.HasAnyUnder($"{_shared}down_proj.")
            ? ("gate_proj", "up_proj", "down_proj")
            : _family.Projections;
        foreach ((string projection, int rows, int columns) in
            ((string, int, int)[])[(gate, intermediate, hidden), (up, intermediate, hidden), (down, hidden, intermediate)])
        {
            string name = $"{_shared}{projection}.weight";
            Add(names, new(name, ExpertLayout.ScaleOf(names, name)), null, rows, columns);
        }
    }

    private void Add(TensorIndex names, MatrixSource source, int? expert, int rows, int columns)
    {
        if (!names.Has(source.Values))
        {
            Miss(source.Values, source.Stacked < 0 ? expert : null);
            return;
        }
        _expected.Add(source.Values);
        if (source.Scales is not null) _expected.Add(source.Scales);
        if (_slabs.Add((source.Values, source.Stacked))) Slabs.Add(Slab.Of(source, _layer, expert, rows, columns));
    }

    private bool IsOfBlock(string name) =>
        name.StartsWith(_block, StringComparison.Ordinal) || (_shared is not null && name.StartsWith(_shared, StringComparison.Ordinal));

    /// <summary>The missing tensor that a superfluous one is probably meant to be: same numbers in the name, hardly another letter.</summary>
    private string? SimilarTo(string name)
    {
        string numbers = Numbers(name);
        (string Name, int Distance)? best = null;
        foreach (string missing in _missing.Keys)
        {
            if (Numbers(missing) != numbers) continue;
            int distance = Distance(name.AsSpan(_block.Length), missing.AsSpan(_block.Length));
            if (distance * 3 <= missing.Length - _block.Length && (best is null || distance < best.Value.Distance)) best = (missing, distance);
        }
        return best?.Name;
    }

    private string Numbers(string name) =>
        string.Join('.', name[_block.Length..].Split('.').Where(part => part.Length > 0 && part.All(char.IsAsciiDigit)));

    /// <summary>Letters to insert, remove or replace.</summary>
    private static int Distance(ReadOnlySpan<char> a, ReadOnlySpan<char> b)
    {
        int[] row = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                int replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.Min(replaced, Math.Min(row[j], row[j - 1]) + 1);
            }
        }
        return row[^1];
    }

    private int? ExpertOf(string name)
    {
        if (!name.StartsWith(_block, StringComparison.Ordinal)) return null;
        foreach (string part in name[_block.Length..].Split('.'))
            if (int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out int expert)) return expert;
        return null;
    }

    private void CheckTable(string name, long[] shape, Action<Finding> report)
    {
        if (_shards.Find(name) is not var (file, entry)) return;
        bool isVector = shape.Length == 1;
        bool fits = isVector ? entry.Elements == shape[0] && entry.Shape.Count(d => d != 1) <= 1 : entry.Shape.AsSpan().SequenceEqual(shape);
        if (!fits)
            report(new(FindingCode.WeightShape, $"{name} has shape {entry.ShapeText} but [{string.Join(", ", shape)}] is needed.", At(name, null)));
        if (entry.Type is not ("F32" or "BF16" or "F16"))
        {
            report(new(FindingCode.WeightType, $"{name} is {entry.Type} but F32, BF16 or F16 is needed.", At(name, null)));
            return;
        }
        if (FirstNonFinite(file, entry) is not (long element, float value)) return;
        bool isRouter = name == _block + _family.RouterWeight || name == _block + _family.RouterLogitBias
            || name == _block + _family.RouterCorrectionBias;
        report(new(isRouter ? FindingCode.RouterNonFinite : FindingCode.PayloadNonFinite,
            FormattableString.Invariant($"{name} holds {value} at element {element}."), At(name, null)));
    }

    private static unsafe (long Element, float Value)? FirstNonFinite(SafetensorsFile file, TensorEntry entry)
    {
        byte* data = file.Pointer(entry);
        for (long i = 0; i < entry.Elements; i++)
        {
            float value = entry.Type switch
            {
                "F32" => BitConverter.ToSingle(new ReadOnlySpan<byte>(data + 4 * i, 4)),
                "BF16" => BFloat16.FromBits(BitConverter.ToUInt16(new ReadOnlySpan<byte>(data + 2 * i, 2))).ToSingle(),
                _ => (float)BitConverter.ToHalf(new ReadOnlySpan<byte>(data + 2 * i, 2)),
            };
            if (!float.IsFinite(value)) return (i, value);
        }
        return null;
    }

    private Place At(string name, int? expert) =>
        new(_shards.Find(name) is { } found ? Path.GetFileName(found.File.Path) : null, name, _layer, expert);
}
