using System.Text.Json;

namespace MoeSharp;

/// <summary>config.json, with what a language model nested under text_config looked up first. Keys have several published spellings: the first that is present counts.</summary>
internal sealed class ModelConfig
{
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
            using JsonDocument document = JsonDocument.Parse(stream);
            if (document.RootElement.ValueKind != JsonValueKind.Object) throw new CheckpointException($"{path} is not a JSON object.");
            return new(path, document.RootElement.Clone());
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new CheckpointException($"{path} does not exist; a checkpoint folder needs a config.json.", e);
        }
        catch (Exception e) when (e is JsonException or IOException or UnauthorizedAccessException)
        {
            throw new CheckpointException($"{path} cannot be read: {e.Message.TrimEnd('.')}.", e);
        }
    }

    public string ModelType => Text("model_type") ?? throw new CheckpointException($"{Path} has no model_type.");

    /// <summary>The outer model_type, where a text_config has its own.</summary>
    public string? OuterModelType => _root.TryGetProperty("model_type", out JsonElement type) && type.ValueKind == JsonValueKind.String ? type.GetString() : null;

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

    public int RequiredInt(params ReadOnlySpan<string> keys) =>
        Int(keys) is int value and > 0 ? value : throw new CheckpointException($"{Path} needs a positive {string.Join(" or ", keys!)}.");

    public float? Float(params ReadOnlySpan<string> keys)
    {
        if (Find(keys) is not { } value) return null;
        if (value.ValueKind == JsonValueKind.Number && float.IsFinite(value.GetSingle())) return value.GetSingle();
        throw Bad(keys, value, "a finite number");
    }

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
            return [.. value.GetString()!.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(s => int.TryParse(s, out int n) ? n : -1)];
        if (value.ValueKind != JsonValueKind.Array) throw Bad(keys, value, "a list of whole numbers");
        var numbers = new List<int>();
        foreach (JsonElement item in value.EnumerateArray())
            numbers.Add(item.ValueKind == JsonValueKind.Number && item.TryGetInt32(out int number) ? number : throw Bad(keys, value, "a list of whole numbers"));
        return [.. numbers];
    }

    /// <summary>One entry of a per-layer list of numbers; null where the list is absent or too short, or the entry is null.</summary>
    public float? PerLayer(string key, int layer)
    {
        if (Find(key) is not { ValueKind: JsonValueKind.Array } list || layer >= list.GetArrayLength()) return null;
        JsonElement item = list[layer];
        return item.ValueKind == JsonValueKind.Number ? item.GetSingle() : null;
    }

    private CheckpointException Bad(ReadOnlySpan<string> keys, JsonElement value, string expected) =>
        new($"{Path}: {string.Join(" or ", keys!)} is {value.GetRawText()} but must be {expected}.");
}
