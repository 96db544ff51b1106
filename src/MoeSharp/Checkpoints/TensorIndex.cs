using System.Text.Json;

namespace MoeSharp;

/// <summary>Which file holds which tensor: model.safetensors.index.json, or the header of a lone model.safetensors. Files are opened when first
/// needed.</summary>
internal sealed class TensorIndex : IDisposable
{
    public const string IndexName = "model.safetensors.index.json", SingleName = "model.safetensors";
    private readonly string _folder;
    private readonly Dictionary<string, string> _fileOf = [];
    private readonly Dictionary<string, SafetensorsFile> _files = [];
    private readonly Lock _lock = new();
    private long? _totalSize;

    private TensorIndex(string folder) => _folder = folder;

    /// <summary>Every tensor name.</summary>
    public IReadOnlyCollection<string> Names => _fileOf.Keys;

    /// <summary>Names of the data files.</summary>
    public IEnumerable<string> Files => _fileOf.Values.Distinct();

    /// <summary>What is odd but harmless.</summary>
    public List<string> Warnings { get; } = [];

    public static TensorIndex Open(string folder)
    {
        var index = new TensorIndex(folder);
        string path = Path.Combine(folder, IndexName), single = Path.Combine(folder, SingleName);
        if (File.Exists(path)) index.ReadIndex(path);
        else if (File.Exists(single)) foreach (string name in index.FileNamed(SingleName).Tensors.Keys) index._fileOf.Add(name, SingleName);
        else throw new CheckpointException($"{folder} holds neither {SingleName} nor {IndexName}; give the folder of a Hugging Face checkpoint.");
        return index;
    }

    /// <summary>Opens every file that is there, so that damage is found now and not in the middle of work. Files that are not there may belong to
    /// layers or experts that nobody asks for: they are missed when a tensor in them is needed.</summary>
    public void OpenPresentFiles()
    {
        foreach (string name in Files)
            if (File.Exists(Path.Combine(_folder, name))) FileNamed(name);
        if (_totalSize is not { } claimed || _files.Count < Files.Count()) return;
        long total = _files.Sum(file => file.Value.Tensors.Values.Where(t => _fileOf.GetValueOrDefault(t.Name) == file.Key).Sum(t => t.Bytes));
        if (total != claimed) Warnings.Add($"{Path.Combine(_folder, IndexName)} says that tensors take {claimed} bytes but they take {total}.");
    }

    public bool HasAnyUnder(string prefix)
    {
        foreach (string name in _fileOf.Keys)
            if (name.StartsWith(prefix, StringComparison.Ordinal)) return true;
        return false;
    }

    /// <summary>Names alone, for who looks at layouts and opens files by other means.</summary>
    public static TensorIndex OfNames(IEnumerable<string> names)
    {
        var index = new TensorIndex("");
        foreach (string name in names) index._fileOf.TryAdd(name, "");
        return index;
    }

    public bool Has(string name) => _fileOf.ContainsKey(name);

    /// <summary>A tensor and the file that holds it.</summary>
    /// <exception cref="CheckpointException">The index does not list it, or its file does not hold it.</exception>
    public (SafetensorsFile File, TensorEntry Entry) Find(string name)
    {
        if (!_fileOf.TryGetValue(name, out string? fileName)) throw new CheckpointException($"{_folder} has no tensor {name}.");
        SafetensorsFile file = FileNamed(fileName);
        return file.Tensors.TryGetValue(name, out TensorEntry? entry)
            ? (file, entry)
            : throw new CheckpointException($"{Path.Combine(_folder, IndexName)} says that {name} is in {fileName}, but that file does not hold it.");
    }

    private SafetensorsFile FileNamed(string name)
    {
        lock (_lock)
        {
            if (!_files.TryGetValue(name, out SafetensorsFile? file)) _files[name] = file = SafetensorsFile.Open(Path.Combine(_folder, name));
            return file;
        }
    }

    private void ReadIndex(string path)
    {
        try
        {
            var reader = new Utf8JsonReader(File.ReadAllBytes(path), new JsonReaderOptions { MaxDepth = 16 });
            if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject) throw Bad(path, "it is not a JSON object");
            bool found = false;
            var intern = new Dictionary<string, string>();
            while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
            {
                string key = reader.GetString()!;
                reader.Read();
                if (key == "weight_map")
                {
                    if (found) throw Bad(path, "weight_map appears twice");
                    found = true;
                    ReadMap(path, ref reader, intern);
                }
                else if (key == "metadata" && reader.TokenType == JsonTokenType.StartObject)
                {
                    ReadMetadata(ref reader);
                }
                else
                {
                    reader.Skip();
                }
            }
            reader.Read(); // throws where something follows the object
            if (!found) throw Bad(path, "it has no weight_map");
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or IOException or UnauthorizedAccessException)
        {
            throw Bad(path, e.Message.TrimEnd('.'));
        }
    }

    private void ReadMetadata(ref Utf8JsonReader reader)
    {
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            bool size = reader.ValueTextEquals("total_size");
            reader.Read();
            if (size && reader.TokenType == JsonTokenType.Number && reader.TryGetInt64(out long total)) _totalSize = total;
            else reader.Skip();
        }
    }

    private void ReadMap(string path, ref Utf8JsonReader reader, Dictionary<string, string> intern)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw Bad(path, "weight_map is not an object");
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string tensor = reader.GetString()!;
            if (PlainText.HasControls(tensor)) throw Bad(path, $"the name of the tensor {tensor} holds a control character");
            reader.Read();
            if (reader.TokenType != JsonTokenType.String) throw Bad(path, $"the file of {tensor} is not a string");
            string file = reader.GetString()!;
            if (!intern.TryGetValue(file, out string? known))
            {
                if (!IsPlainFileName(file)) throw Bad(path, $"{tensor} is said to be in '{file}', which is not a plain file name");
                intern.Add(file, known = file);
            }
            if (!_fileOf.TryAdd(tensor, known)) throw Bad(path, $"{tensor} appears twice");
        }
    }

    /// <summary>No folder, drive, stream or parent: nothing that leads out of the checkpoint's folder.</summary>
    public static bool IsPlainFileName(string name) =>
        name.Length is > 0 and < 256 && name != "." && name != ".." && name.AsSpan().IndexOfAny("/\\:\0") < 0 && !PlainText.HasControls(name);

    private static CheckpointException Bad(string path, string what) => new($"{path} is not a valid index: {what}.");

    public void Dispose()
    {
        foreach (SafetensorsFile file in _files.Values) file.Dispose();
    }
}
