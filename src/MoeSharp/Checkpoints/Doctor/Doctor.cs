using System.Collections.Concurrent;
using System.Globalization;

namespace MoeSharp;

/// <summary>Audits every MoE layer of a checkpoint without running it. Whatever is wrong with files and tensors is a finding and ends
/// nothing.</summary>
internal sealed class Doctor : IDisposable
{
    private readonly FindingList _findings = new();
    private readonly ModelConfig _config;
    private readonly ShardSurvey _shards;
    private readonly QuantizationConfig? _quantization;
    private readonly List<Slab> _slabs = [];

    /// <summary>Reads config, index and headers and checks names; weights are read by <see cref="Scan"/>.</summary>
    /// <exception cref="CheckpointException">The folder or its config.json cannot be read.</exception>
    public Doctor(string folder)
    {
        if (!Directory.Exists(folder))
            throw new CheckpointException(
                File.Exists(folder)
                    ? $"{folder} is a file; give the folder that holds config.json and the safetensors files."
                    : $"{folder} does not exist.");
        _config = ModelConfig.Read(Path.Combine(folder, "config.json"));
        try
        {
            _shards = new ShardSurvey(folder, _findings.Add);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointException($"{folder} cannot be read: {e.Message.TrimEnd('.')}.", e);
        }
        try
        {
            Family family = Families.Of(_config);
            _quantization = QuantizationConfig.Read(_config);
            CheckLayers(family);
        }
        catch (CheckpointException e)
        {
            _findings.Add(new(FindingCode.ConfigUnsupported, e.Message, new("config.json")));
        }
        if (_quantization is not null) CheckIgnored(_quantization);
        Bytes = _slabs.Sum(slab => _shards.Find(slab.Source.Values)?.Entry.Bytes ?? 0);
    }

    /// <summary>Decoder layers with experts that were audited.</summary>
    public int Layers { get; private set; }

    /// <summary>Bytes of weights that <see cref="Scan"/> reads.</summary>
    public long Bytes { get; }

    /// <summary>What was found so far: errors first, then by layer, expert and tensor.</summary>
    public IReadOnlyList<Finding> Findings =>
        [.. _findings.All.OrderBy(f => f.Code.Severity).ThenBy(f => f.At.Layer ?? -1).ThenBy(f => f.At.Expert ?? -1)
            .ThenBy(f => f.At.Tensor, StringComparer.Ordinal)
            .ThenBy(f => f.At.File, StringComparer.Ordinal).ThenBy(f => f.Code.Name, StringComparer.Ordinal)];

    /// <summary>Reads every scale and every weight once, with as many threads as there are processors.</summary>
    /// <param name="progress">Told the bytes read so far, from several threads, about a hundred times.</param>
    /// <param name="cancel">Ends the scan.</param>
    public void Scan(Action<Slab, long> progress, CancellationToken cancel)
    {
        long done = 0, step = Math.Max(Bytes / 100, 1);
        Parallel.ForEach(Partitioner.Create(ReadAhead(_slabs.SelectMany(SlicesOf)), EnumerablePartitionerOptions.NoBuffering),
            new ParallelOptions { CancellationToken = cancel, MaxDegreeOfParallelism = Environment.ProcessorCount }, slab =>
        {
            new SlabAudit(slab, _shards, _quantization, _findings.Add).Run();
            long bytes = BytesOf(slab), now = Interlocked.Add(ref done, bytes);
            if (now / step != (now - bytes) / step) progress(slab, now);
        });
    }

    private void CheckLayers(Family family)
    {
        int layers = Family.Layers(_config), trained = layers + (_config.UpTo(ModelConfig.MostLayers, "num_nextn_predict_layers") ?? 0);
        string[] all = [.. _shards.Names.Order(StringComparer.Ordinal)];
        string prefix = Checkpoint.Prefixes.FirstOrDefault(p => all.Any(n => n.StartsWith($"{p}layers.", StringComparison.Ordinal)))
            ?? Checkpoint.Prefixes[0];
        ILookup<int, string> byLayer = all.ToLookup(name => LayerOf(prefix, name));
        (int Layer, LayerAudit Audit)[] audits =
            [.. Enumerable.Range(0, layers).Where(l => family.IsMoe(_config, l)).Select(
                l => (l, new LayerAudit(_shards, family, _config, prefix, l, [.. byLayer[l]])))];
        HashSet<string> optional = [.. audits.SelectMany(a => a.Audit.Optional)];
        foreach ((int layer, LayerAudit audit) in audits)
        {
            audit.Report(optional, _findings.Add);
            _slabs.AddRange(audit.Slabs);
        }
        Layers = audits.Length;
        HashSet<int> withExperts = [.. audits.Select(a => a.Layer)];
        foreach (IGrouping<int, string> layer in byLayer)
            if (layer.Key >= 0 && !withExperts.Contains(layer.Key)) CheckOtherLayer(family, prefix, layer, layers, trained);
    }

    /// <summary>A layer that config.json gives no experts must have none. Layers that only predict further tokens are left alone.</summary>
    private void CheckOtherLayer(Family family, string prefix, IGrouping<int, string> layer, int layers, int trained)
    {
        string experts = $"{family.BlockPrefix(prefix, layer.Key)}experts.";
        bool isBeyond = layer.Key >= trained;
        if (layer.Key >= layers && !isBeyond) return;
        foreach (string name in layer.Where(n => n.StartsWith(experts, StringComparison.Ordinal)))
        {
            string? file = _shards.Find(name) is { } found ? Path.GetFileName(found.File.Path) : null;
            ReadOnlySpan<char> rest = name.AsSpan(experts.Length);
            int? expert = int.TryParse(rest[..Math.Max(rest.IndexOf('.'), 0)], NumberStyles.None, CultureInfo.InvariantCulture, out int e) ? e : null;
            string what = isBeyond ? $"config.json has only layers 0 .. {trained - 1}" : $"config.json gives layer {layer.Key} no experts";
            _findings.Add(new(FindingCode.TensorExtra, $"{name} is an expert's tensor, but {what}.", new(file, name, layer.Key, expert)));
        }
    }

    private static int LayerOf(string prefix, string name)
    {
        string start = $"{prefix}layers.";
        if (!name.StartsWith(start, StringComparison.Ordinal)) return -1;
        ReadOnlySpan<char> rest = name.AsSpan(start.Length);
        int dot = rest.IndexOf('.');
        return dot > 0 && int.TryParse(rest[..dot], NumberStyles.None, CultureInfo.InvariantCulture, out int layer) ? layer : -1;
    }

    private void CheckIgnored(QuantizationConfig quantization)
    {
        if (!_shards.KnowsAllNames) return;
        string[] modules = [.. _shards.Names.Select(n => n.LastIndexOf('.') is > 0 and int dot ? n[..dot] : n).Concat(
            _shards.Names.Where(n => !n.EndsWith(".weight", StringComparison.Ordinal))).Distinct()];
        bool isTied = _config.Find("tie_word_embeddings") is { ValueKind: System.Text.Json.JsonValueKind.True };
        foreach (string entry in quantization.Ignored.Distinct())
        {
            if (entry == "lm_head" && isTied) continue; // then it is there without a tensor of its own
            try
            {
                if (!modules.Any(module => QuantizationConfig.Covers(entry, module)))
                    _findings.Add(new(FindingCode.IgnoreUnmatched, $"quantization_config leaves '{entry}' unquantized, which matches no module.",
                        new("config.json")));
            }
            catch (CheckpointException e)
            {
                _findings.Add(new(FindingCode.IgnoreInvalid, e.Message, new("config.json")));
            }
        }
    }

    /// <summary>Slices of another number than config.json says are a finding of the first.</summary>
    private IEnumerable<Slab> SlicesOf(Slab slab) =>
        _shards.Find(slab.Source.Values) is var (_, entry) && entry.Shape.Length == 3 && entry.Shape[0] == slab.Source.StackedCount ? slab.Slices() : [slab];

    /// <summary>The same slabs, each asked for some time before its turn: page by page a disk is far from its speed.</summary>
    private IEnumerable<Slab> ReadAhead(IEnumerable<Slab> slabs)
    {
        var asked = new Queue<Slab>();
        foreach (Slab slab in slabs)
        {
            Ask(slab);
            asked.Enqueue(slab);
            if (asked.Count > 4 * Environment.ProcessorCount) yield return asked.Dequeue();
        }
        while (asked.TryDequeue(out Slab? last)) yield return last;
    }

    private unsafe void Ask(Slab slab)
    {
        long bytes = BytesOf(slab);
        if (_shards.Find(slab.Source.Values) is var (file, entry)) MappedPages.ReadAhead(file.Pointer(entry) + Math.Max(slab.Source.Stacked, 0) * bytes, bytes);
    }

    private long BytesOf(Slab slab) =>
        _shards.Find(slab.Source.Values) is { } found
            ? found.Entry.Bytes / Math.Max(slab.Source.StackedCount * (slab.Source.Stacked < 0 ? 0 : 1), 1)
            : 0;

    /// <summary>Unmaps the files.</summary>
    public void Dispose() => _shards.Dispose();
}
