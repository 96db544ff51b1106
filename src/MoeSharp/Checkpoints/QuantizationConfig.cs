using System.Text.Json;
using System.Text.RegularExpressions;

namespace MoeSharp;

/// <summary>quantization_config in its published spellings, reduced to a format and a list of modules left alone.</summary>
internal sealed class QuantizationConfig
{
    private readonly string[] _ignored;

    private QuantizationConfig(WeightFormat format, string[] ignored)
    {
        Format = format;
        _ignored = ignored;
    }

    public WeightFormat Format { get; }

    /// <summary>Null where the config has none.</summary>
    /// <exception cref="CheckpointException">The kind is not supported; the message names it.</exception>
    public static QuantizationConfig? Read(ModelConfig config)
    {
        if (config.Find("quantization_config", "compression_config") is not { ValueKind: JsonValueKind.Object } q) return null;
        string method = Text(q, "quant_method") ?? throw new CheckpointException($"{config.Path}: quantization_config has no quant_method.");
        string[] ignored = [.. Strings(q, "modules_to_not_convert"), .. Strings(q, "ignored_layers"), .. Strings(q, "ignore"), .. Strings(q, "exclude_modules")];
        WeightFormat format = method switch
        {
            "fp8" => Fp8(config, q),
            "mxfp8" => MxFp8(config, q, "weight_block_size", 1),
            "modelopt" or "modelopt_mxfp8" when Text(q, "quant_algo") is "MXFP8" => MxFp8(config, q, "group_size", 0),
            "compressed-tensors" => CompressedTensors(config, q),
            _ => throw Refused(config, $"quant_method '{method}'{(Text(q, "quant_algo") is { } algo ? $" ({algo})" : "")}"),
        };
        return new(format, ignored);
    }

    /// <summary>The entries of the lists of modules left unquantized, as written.</summary>
    public IReadOnlyList<string> Ignored => _ignored;

    /// <summary>Whether a module is to be left unquantized: entries are module names or parts of them, globs, or regular expressions after "re:".</summary>
    public bool Ignores(string module)
    {
        foreach (string entry in _ignored)
            if (Covers(entry, module)) return true;
        return false;
    }

    /// <summary>Whether one entry of such a list means a module.</summary>
    public static bool Covers(string entry, string module)
    {
        if (entry.StartsWith("re:", StringComparison.Ordinal)) return Matches(entry[3..], module);
        return entry.Contains('*')
            ? Matches("^(.*\\.)?" + Regex.Escape(entry).Replace("\\*", ".*") + "(\\..*)?$", module)
            : $".{module}.".Contains($".{entry}.", StringComparison.Ordinal);
    }

    private static bool Matches(string pattern, string module)
    {
        try
        {
            return Regex.IsMatch(module, pattern, RegexOptions.CultureInvariant, TimeSpan.FromSeconds(1));
        }
        catch (Exception e) when (e is ArgumentException or RegexMatchTimeoutException)
        {
            throw new CheckpointException($"quantization_config ignores modules by the pattern '{pattern}', which cannot be used: {e.Message.TrimEnd('.')}.", e);
        }
    }

    private static WeightFormat Fp8(ModelConfig config, JsonElement q)
    {
        if (Text(q, "fmt") is { } fmt and not ("e4m3" or "float8_e4m3fn" or "e4m3fn")) throw Refused(config, $"fp8 with fmt '{fmt}'");
        if (Text(q, "activation_scheme") is { } scheme and not "dynamic") throw Refused(config, $"fp8 with activation_scheme '{scheme}'");
        if (Ints(q, "weight_block_size") is not { } block) throw Refused(config, "fp8 per tensor (no weight_block_size)");
        if (block is [1, 32]) return WeightFormat.MxFp8;
        if (block is not [128, 128]) throw Refused(config, $"fp8 with weight_block_size [{string.Join(", ", block)}]");
        return Text(q, "scale_fmt") switch
        {
            null or "float" or "float32" => WeightFormat.Block128,
            "ue8m0" => WeightFormat.Block128PowerOfTwo,
            var other => throw Refused(config, $"fp8 with scale_fmt '{other}'"),
        };
    }

    private static WeightFormat MxFp8(ModelConfig config, JsonElement q, string key, int shape)
    {
        bool known = shape == 1 ? Ints(q, key) is null or [1, 32] : !q.TryGetProperty(key, out JsonElement size) || (size.ValueKind == JsonValueKind.Number && size.TryGetInt32(out int n) && n == 32);
        return known ? WeightFormat.MxFp8 : throw Refused(config, $"mxfp8 with {key} {q.GetProperty(key).GetRawText()}");
    }

    private static WeightFormat CompressedTensors(ModelConfig config, JsonElement q)
    {
        if (!q.TryGetProperty("config_groups", out JsonElement groups) || groups.ValueKind != JsonValueKind.Object) throw Refused(config, "compressed-tensors without config_groups");
        foreach (JsonProperty group in groups.EnumerateObject())
        {
            if (group.Value.ValueKind != JsonValueKind.Object || !group.Value.TryGetProperty("weights", out JsonElement w) || w.ValueKind != JsonValueKind.Object) continue;
            string type = Text(w, "type") ?? "?", strategy = Text(w, "strategy") ?? "?";
            int bits = w.TryGetProperty("num_bits", out JsonElement b) && b.ValueKind == JsonValueKind.Number && b.TryGetInt32(out int n) ? n : 0;
            if (type != "float" || bits != 8 || strategy != "block") throw Refused(config, $"compressed-tensors with {bits}-bit {type} weights per {strategy}");
            if (Ints(w, "block_structure") is not [128, 128]) throw Refused(config, "compressed-tensors with blocks other than [128, 128]");
            return WeightFormat.Block128;
        }
        throw Refused(config, "compressed-tensors without weights in config_groups");
    }

    private static CheckpointException Refused(ModelConfig config, string what) =>
        new($"{config.Path}: {what} is not supported; expert weights must be FP8 E4M3 in 128x128 blocks, MXFP8 (1x32), or BF16.");

    private static string? Text(JsonElement e, string key) => e.TryGetProperty(key, out JsonElement v) && v.ValueKind == JsonValueKind.String ? v.GetString() : null;

    private static int[]? Ints(JsonElement e, string key) =>
        e.TryGetProperty(key, out JsonElement v) && v.ValueKind == JsonValueKind.Array
            ? [.. v.EnumerateArray().Select(i => i.ValueKind == JsonValueKind.Number && i.TryGetInt32(out int n) ? n : -1)]
            : null;

    private static IEnumerable<string> Strings(JsonElement e, string key) =>
        e.TryGetProperty(key, out JsonElement v) && v.ValueKind == JsonValueKind.Array
            ? v.EnumerateArray().Where(i => i.ValueKind == JsonValueKind.String).Select(i => i.GetString()!)
            : [];
}
