using System.Globalization;
using System.Text.Json;

namespace MoeSharp;

/// <summary>
/// config.json, with what a language model nested under text_config looked up first. Keys have several published spellings: the first that is present
/// counts.
/// </summary>
internal sealed class ModelConfig
{
    /// <summary>More than any model has. A config that claims more is damaged or hostile, and must not decide what this process allocates.</summary>
    public const int MostLayers = 4096, MostExperts = 16_384, Widest = 1 << 20;

    private const int LargestFile = 100_000_000;
    private readonly JsonElement _root, _text;

    private ModelConfig(string path, JsonElement root)
    {
        Path = path;
        _root = root;
        _text = root.TryGetProperty("text_config", out JsonElement text) && text.ValueKind == JsonValueKind.Object ? text : root;
    }

    public string Path { get; }

    public static ModelConfig Read(string path)
    {
        try
        {
            using FileStream stream = File.OpenRead(path);
            if (stream.Length > LargestFile)
                throw new CheckpointException($"{path} has {stream.Length} bytes; no config.json has more than {LargestFile}.");
            using JsonDocument document = JsonDocument.Parse(stream);
            if (document.RootElement.ValueKind != JsonValueKind.Object) throw new CheckpointException($"{path} is not a JSON object.");
            CheckStrings(document.RootElement);
            return new(path, document.RootElement.Clone());
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new CheckpointException($"{path} does not exist; a checkpoint folder needs a config.json.", e);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or IOException or UnauthorizedAccessException)
        {
            throw new CheckpointException($"{path} cannot be read: {e.Message.TrimEnd('.')}.", e);
        }
    }

    /// <summary>Takes every string once: those that are not Unicode throw <see cref="InvalidOperationException"/> here and nowhere later.</summary>
    private static void CheckStrings(JsonElement value)
    {
        if (value.ValueKind == JsonValueKind.String) value.GetString();
        if (value.ValueKind == JsonValueKind.Array) foreach (JsonElement item in value.EnumerateArray()) CheckStrings(item);
        if (value.ValueKind != JsonValueKind.Object) return;
        foreach (JsonProperty property in value.EnumerateObject())
        {
            _ = property.Name;
            CheckStrings(property.Value);
        }
    }

    public string ModelType => Text("model_type") ?? throw new CheckpointException($"{Path} has no model_type.");

    /// <summary>The outer model_type, where a text_config has its own.</summary>
    public string? OuterModelType =>
        _root.TryGetProperty("model_type", out JsonElement type) && type.ValueKind == JsonValueKind.String ? type.GetString() : null;

    /// <summary>Those that have a value: neither null nor 0, which configs write for "none".</summary>
    public IEnumerable<string> Keys => _text.EnumerateObject().Concat(_root.EnumerateObject()).Where(property => HasValue(property.Value)).Select(property => property.Name);

    public bool Has(string key) => Find(key) is not null;

    public JsonElement? Find(params ReadOnlySpan<string> keys)
    {
        foreach (string key in keys)
        {
            if (_text.TryGetProperty(key, out JsonElement value) && value.ValueKind != JsonValueKind.Null) return value;
            if (_root.TryGetProperty(key, out value) && value.ValueKind != JsonValueKind.Null) return value;
        }
        return null;
    }

    /// <summary>A whole number from 0 on.</summary>
    public int? Int(params ReadOnlySpan<string> keys)
    {
        if (Find(keys) is not { } value) return null;
        if (value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int number) && number >= 0) return number;
        throw Bad(keys, value, "a whole number from 0 on");
    }

    /// <summary>A whole number from 0 to <paramref name="most"/>.</summary>
    public int? UpTo(int most, params ReadOnlySpan<string> keys) =>
        Int(keys) is not { } value ? null : value <= most ? value : throw Bad(keys, Find(keys)!.Value, $"at most {most}");

    /// <summary>A whole number from 1 to <paramref name="most"/>, which must be there.</summary>
    public int Size(int most, params ReadOnlySpan<string> keys) =>
        UpTo(most, keys) is int value and > 0 ? value : throw new CheckpointException($"{Path} needs a positive {string.Join(" or ", keys!)}.");

    public float? Float(params ReadOnlySpan<string> keys)
    {
        if (Find(keys) is not { } value) return null;
        if (value.ValueKind == JsonValueKind.Number && float.IsFinite(value.GetSingle())) return value.GetSingle();
        throw Bad(keys, value, "a finite number");
    }

    /// <summary>A finite number above 0; null where there is none or it is 0, which configs write for "no limit".</summary>
    public float? Limit(params ReadOnlySpan<string> keys) => Float(keys) switch
    {
        null or 0 => null,
        > 0 and float limit => limit,
        _ => throw Bad(keys, Find(keys)!.Value, "a positive number, or 0 or null for none"),
    };

    public bool? Bool(params ReadOnlySpan<string> keys)
    {
        if (Find(keys) is not { } value) return null;
        return value.ValueKind switch { JsonValueKind.True => true, JsonValueKind.False => false, _ => throw Bad(keys, value, "true or false") };
    }

    public string? Text(params ReadOnlySpan<string> keys)
    {
        if (Find(keys) is not { } value) return null;
        return value.ValueKind == JsonValueKind.String ? value.GetString() : throw Bad(keys, value, "a string");
    }

    /// <summary>A list of whole numbers, or one string of them separated by commas.</summary>
    public int[]? Ints(params ReadOnlySpan<string> keys)
    {
        if (Find(keys) is not { } value) return null;
        if (value.ValueKind == JsonValueKind.String)
            return Split(value.GetString()!) ?? throw Bad(keys, value, "a list of whole numbers");
        if (value.ValueKind != JsonValueKind.Array) throw Bad(keys, value, "a list of whole numbers");
        var numbers = new List<int>();
        foreach (JsonElement item in value.EnumerateArray())
        {
            if (item.ValueKind != JsonValueKind.Number || !item.TryGetInt32(out int number)) throw Bad(keys, value, "a list of whole numbers");
            numbers.Add(number);
        }
        return [.. numbers];
    }

    /// <summary>One entry of a per-layer list of numbers; null where there is no list, or the entry is null.</summary>
    public float? PerLayer(string key, int layer)
    {
        if (Find(key) is not { } list) return null;
        if (list.ValueKind != JsonValueKind.Array || layer >= list.GetArrayLength())
            throw Bad([key], list, $"a list with an entry for layer {layer}");
        JsonElement item = list[layer];
        if (item.ValueKind == JsonValueKind.Null) return null;
        if (item.ValueKind == JsonValueKind.Number && item.GetSingle() is >= 0 and float number && float.IsFinite(number)) return number;
        throw Bad([key], list, $"a list of finite numbers from 0 on (layer {layer} has {item.GetRawText()})");
    }

    private static bool HasValue(JsonElement value) => value.ValueKind != JsonValueKind.Null && !(value.ValueKind == JsonValueKind.Number && value.GetDouble() == 0);

    private static int[]? Split(string text)
    {
        string[] parts = text.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        var numbers = new int[parts.Length];
        for (int i = 0; i < parts.Length; i++)
            if (!int.TryParse(parts[i], NumberStyles.None, CultureInfo.InvariantCulture, out numbers[i])) return null;
        return numbers;
    }

    private CheckpointException Bad(ReadOnlySpan<string> keys, JsonElement value, string expected) =>
        new($"{Path}: {string.Join(" or ", keys!)} is {Short(value.GetRawText())} but must be {expected}.");

    private static string Short(string json) => json.Length <= 100 ? json : $"{json[..100]} ...";
}
