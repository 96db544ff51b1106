using System.Text.Json;

namespace MoeSharp;

/// <summary>A JSON object of quantization_config. A value of another kind than is meant is refused, never taken as absent.</summary>
internal readonly struct QuantizationJson
{
    private readonly string _path, _at;
    private readonly JsonElement _json;

    public QuantizationJson(string path, string at, JsonElement json)
    {
        (_path, _at, _json) = (path, at, json);
        if (json.ValueKind != JsonValueKind.Object) throw new CheckpointException($"{path}: {at} must be an object.");
    }

    /// <summary>The objects that an object holds, each with its key.</summary>
    public IEnumerable<QuantizationJson> Objects(string key)
    {
        if (Object(key) is not { } parent) yield break;
        foreach (JsonProperty member in parent._json.EnumerateObject()) yield return new(_path, $"{parent._at}.{member.Name}", member.Value);
    }

    public QuantizationJson? Object(string key) => Find(key) is { } value ? new(_path, $"{_at}.{key}", value) : null;

    public string? Text(string key) =>
        Find(key) is not { } value ? null : value.ValueKind == JsonValueKind.String ? value.GetString() : throw Bad(key, "a string");

    public int? Int(string key) =>
        Find(key) is not { } value ? null
            : value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int number) ? number
            : throw Bad(key, "a whole number");

    public bool? Bool(string key) => Find(key)?.ValueKind switch
    {
        null => null,
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Bad(key, "true or false"),
    };

    public int[]? Ints(string key)
    {
        if (Find(key) is not { } list) return null;
        if (list.ValueKind != JsonValueKind.Array) throw Bad(key, "a list of whole numbers");
        QuantizationJson self = this;
        return [.. list.EnumerateArray().Select(
            i => i.ValueKind == JsonValueKind.Number && i.TryGetInt32(out int n) ? n : throw self.Bad(key, "a list of whole numbers"))];
    }

    public string[] Strings(string key)
    {
        if (Find(key) is not { } list) return [];
        if (list.ValueKind != JsonValueKind.Array) throw Bad(key, "a list of strings");
        QuantizationJson self = this;
        return [.. list.EnumerateArray().Select(
            i => i.ValueKind == JsonValueKind.String ? i.GetString()! : throw self.Bad(key, "a list of strings"))];
    }

    /// <summary>A kind of quantization that is known but not supported.</summary>
    public CheckpointException Refused(string what) =>
        new($"{_path}: {what} is not supported; expert weights must be FP8 E4M3 in 128x128 blocks, MXFP8 (1x32), or BF16.");

    /// <summary>The same, because of one value.</summary>
    public CheckpointException Refused(string what, string key) =>
        Refused($"{what} {key} {(Find(key) is { } value ? value.GetRawText() : "absent")} ({_at})");

    private CheckpointException Bad(string key, string expected) => new($"{_path}: {_at}.{key} must be {expected}.");

    private JsonElement? Find(string key) => _json.TryGetProperty(key, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? value : null;
}
