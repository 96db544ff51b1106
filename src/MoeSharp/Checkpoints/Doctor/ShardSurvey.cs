using System.Text.Json;

namespace MoeSharp;

/// <summary>Holds index and shards against each other and opens whatever can be opened; nothing ends the survey, everything becomes a
/// finding.</summary>
internal sealed class ShardSurvey : IDisposable
{
    private readonly string _folder;
    private readonly Action<Finding> _report;
    private readonly Dictionary<string, string> _listed = [];
    private readonly Dictionary<string, SafetensorsFile> _files = [];
    private readonly Dictionary<string, (SafetensorsFile File, TensorEntry Entry)> _found = [];
    private bool _hasIndex;
    private long? _claimedSize;

    public ShardSurvey(string folder, Action<Finding> report)
    {
        _folder = folder;
        _report = report;
        string[] present = [.. Directory.EnumerateFiles(folder, "*.safetensors").Select(f => Path.GetFileName(f)!).Order(StringComparer.Ordinal)];
        ReadIndex(present);
        string[] shards = _hasIndex ? [.. _listed.Values.Distinct().Order(StringComparer.Ordinal)]
            : present.Contains(TensorIndex.SingleName) ? [TensorIndex.SingleName]
            : present;
        foreach (string shard in shards) Open(shard);
        Compare();
        if (_claimedSize is { } claimed && _files.Count == shards.Length) CheckSize(claimed);
        foreach (string file in present.Except(shards)) CheckUnlisted(file);
        NameIndex = TensorIndex.OfNames(_listed.Keys.Union(_found.Keys));
    }

    /// <summary>Every name that the index or a shard knows, readable or not.</summary>
    public IEnumerable<string> Names => NameIndex.Names;

    /// <summary>The same, to look layouts up in.</summary>
    public TensorIndex NameIndex { get; }

    /// <summary>False when a file is unreadable and no index says what it held, so that missing names mean nothing.</summary>
    public bool KnowsAllNames { get; private set; } = true;

    /// <summary>A tensor that can be read, and its file.</summary>
    public (SafetensorsFile File, TensorEntry Entry)? Find(string name) =>
        _found.TryGetValue(name, out (SafetensorsFile, TensorEntry) found) ? found : null;

    private void ReadIndex(string[] present)
    {
        string path = Path.Combine(_folder, TensorIndex.IndexName);
        if (!File.Exists(path))
        {
            if (present.Contains(TensorIndex.SingleName)) return;
            _report(new(FindingCode.IndexMissing, $"There is neither {TensorIndex.IndexName} nor {TensorIndex.SingleName}.",
                new(TensorIndex.IndexName)));
            KnowsAllNames = present.Length > 0;
            return;
        }
        try
        {
            using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(path));
            JsonElement root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty("weight_map", out JsonElement map) || map.ValueKind != JsonValueKind.Object)
                throw new JsonException("it has no weight_map");
            foreach (JsonProperty entry in map.EnumerateObject()) List(entry.Name, entry.Value);
            _hasIndex = true;
            if (root.TryGetProperty("metadata", out JsonElement metadata) && metadata.ValueKind == JsonValueKind.Object
                && metadata.TryGetProperty("total_size", out JsonElement size) && size.ValueKind == JsonValueKind.Number
                && size.TryGetInt64(out long total))
                _claimedSize = total;
        }
        catch (Exception e) when (e is JsonException or IOException or UnauthorizedAccessException or InvalidOperationException)
        {
            _report(new(FindingCode.IndexInvalid, $"{TensorIndex.IndexName} cannot be used: {e.Message.TrimEnd('.')}.", new(TensorIndex.IndexName)));
        }
    }

    private void List(string tensor, JsonElement value)
    {
        var at = new Place(TensorIndex.IndexName, tensor);
        if (value.ValueKind != JsonValueKind.String) _report(new(FindingCode.IndexInvalid, $"The file of {tensor} is not a string.", at));
        else if (!TensorIndex.IsPlainFileName(value.GetString()!))
            _report(new(FindingCode.IndexPath, $"{tensor} is said to be in '{value.GetString()}', which is not a plain file name.", at));
        else if (!_listed.TryAdd(tensor, value.GetString()!))
            _report(new(FindingCode.IndexDuplicate, $"{tensor} appears twice in the index, in {_listed[tensor]} and in {value.GetString()}.", at));
    }

    private void Open(string name)
    {
        string path = Path.Combine(_folder, name);
        string tensors = _hasIndex ? $"; {_listed.Values.Count(f => f == name)} tensors are listed in it" : "";
        if (!File.Exists(path))
        {
            _report(new(FindingCode.ShardMissing, $"{name} is listed but does not exist{tensors}.", new(name)));
            return;
        }
        try
        {
            _files.Add(name, SafetensorsFile.Open(path));
        }
        catch (CheckpointException e)
        {
            KnowsAllNames &= _hasIndex;
            _report(new(FindingCode.ShardUnreadable, $"{e.Message.TrimEnd('.')}{tensors}.", new(name)));
        }
    }

    /// <summary>Finds every tensor: where the index says, or else where it is.</summary>
    private void Compare()
    {
        foreach ((string name, SafetensorsFile file) in _files)
        {
            foreach (TensorEntry entry in file.Tensors.Values)
            {
                bool isListed = _listed.TryGetValue(entry.Name, out string? where);
                if (_hasIndex && !isListed)
                    _report(new(FindingCode.TensorUnlisted, $"{entry.Name} is in {name} but not in the index.", new(name, entry.Name)));
                if (_found.TryGetValue(entry.Name, out (SafetensorsFile File, TensorEntry) other))
                    _report(new(FindingCode.TensorDuplicated, $"{entry.Name} is in {Path.GetFileName(other.File.Path)} and in {name}.",
                        new(name, entry.Name)));
                if (where == name || !_found.ContainsKey(entry.Name)) _found[entry.Name] = (file, entry);
            }
        }
        foreach ((string tensor, string file) in _listed)
        {
            if (!_files.TryGetValue(file, out SafetensorsFile? shard) || shard.Tensors.ContainsKey(tensor)) continue;
            string where = Find(tensor) is { } found ? $"{Path.GetFileName(found.File.Path)} does" : "no other shard does";
            _report(new(FindingCode.IndexStale, $"The index says that {tensor} is in {file}, which does not hold it ({where}).", new(file, tensor)));
        }
    }

    private void CheckSize(long claimed)
    {
        long total = _found.Where(tensor => _listed.ContainsKey(tensor.Key)).Sum(tensor => tensor.Value.Entry.Bytes);
        if (total == claimed) return;
        _report(new(FindingCode.IndexSize, $"The index says that tensors take {claimed} bytes but they take {total}.", new(TensorIndex.IndexName)));
    }

    /// <summary>A file beside the shards is only suspicious when it looks like one or holds tensors of the model.</summary>
    private void CheckUnlisted(string name)
    {
        bool looksLikeShard = name.StartsWith("model", StringComparison.Ordinal);
        string what = "looks like a shard";
        try
        {
            using var file = SafetensorsFile.Open(Path.Combine(_folder, name));
            if (file.Tensors.Keys.FirstOrDefault(t => _listed.ContainsKey(t) || _found.ContainsKey(t)) is { } shared)
            {
                looksLikeShard = true;
                what = $"holds {shared}, which the model has elsewhere";
            }
        }
        catch (CheckpointException)
        {
            what = "looks like a shard and cannot be read";
        }
        if (looksLikeShard) _report(new(FindingCode.ShardUnlisted, $"{name} is not listed but {what}.", new(name)));
    }

    public void Dispose()
    {
        foreach (SafetensorsFile file in _files.Values) file.Dispose();
    }
}
