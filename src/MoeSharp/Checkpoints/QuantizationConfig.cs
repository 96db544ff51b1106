using System.Text.RegularExpressions;

namespace MoeSharp;

/// <summary>quantization_config in its published spellings, reduced to a format and a list of modules left alone.</summary>
internal sealed class QuantizationConfig
{
    private static readonly string[] IgnoreLists = ["modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"];
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
        if (config.Find("quantization_config", "compression_config") is not { } json) return null;
        var q = new QuantizationJson(config.Path, "quantization_config", json);
        string method = q.Text("quant_method") ?? throw new CheckpointException($"{config.Path}: quantization_config has no quant_method.");
        WeightFormat format = method switch
        {
            "fp8" => Fp8(q),
            "mxfp8" => q.Ints("weight_block_size") is null or [1, 32] ? WeightFormat.MxFp8 : throw q.Refused("mxfp8 with", "weight_block_size"),
            "modelopt" or "modelopt_mxfp8" when q.Text("quant_algo") is "MXFP8" =>
                q.Int("group_size") is null or 32 ? WeightFormat.MxFp8 : throw q.Refused("mxfp8 with", "group_size"),
            "compressed-tensors" => CompressedTensors.Read(q),
            _ => throw q.Refused($"quant_method '{method}'{(q.Text("quant_algo") is { } algo ? $" ({algo})" : "")}"),
        };
        return new(format, [.. IgnoreLists.SelectMany(key => q.Strings(key))]);
    }

    /// <summary>The entries of the lists of modules left unquantized, as written.</summary>
    public IReadOnlyList<string> Ignored => _ignored;

    /// <summary>Whether a module is to be left unquantized: entries are module names or parts of them, globs, or regular expressions after
    /// "re:".</summary>
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
            throw new CheckpointException(
                $"quantization_config ignores modules by the pattern '{pattern}', which cannot be used: {e.Message.TrimEnd('.')}.", e);
        }
    }

    private static WeightFormat Fp8(QuantizationJson q)
    {
        if (q.Text("fmt") is { } fmt and not ("e4m3" or "float8_e4m3fn" or "e4m3fn")) throw q.Refused($"fp8 with fmt '{fmt}'");
        if (q.Text("activation_scheme") is { } scheme and not "dynamic") throw q.Refused($"fp8 with activation_scheme '{scheme}'");
        if (q.Ints("weight_block_size") is not { } block) throw q.Refused("fp8 per tensor (no weight_block_size)");
        if (block is [1, 32]) return WeightFormat.MxFp8;
        if (block is not [128, 128]) throw q.Refused($"fp8 with weight_block_size [{string.Join(", ", block)}]");
        return q.Text("scale_fmt") switch
        {
            null or "float" or "float32" => WeightFormat.Block128,
            "ue8m0" => WeightFormat.Block128PowerOfTwo,
            var other => throw q.Refused($"fp8 with scale_fmt '{other}'"),
        };
    }
}
