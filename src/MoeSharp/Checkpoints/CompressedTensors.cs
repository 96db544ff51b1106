namespace MoeSharp;

/// <summary>The kind of quantization_config that describes weights and activations in groups: every group must be one that is computed
/// here.</summary>
internal static class CompressedTensors
{
    public static WeightFormat Read(QuantizationJson q)
    {
        if (q.Text("format") is { } format and not ("float-quantized" or "naive-quantized"))
            throw q.Refused($"compressed-tensors with format '{format}'");
        int weights = 0;
        foreach (QuantizationJson group in q.Objects("config_groups"))
        {
            if (group.Text("format") is { } own and not ("float-quantized" or "naive-quantized"))
                throw group.Refused($"compressed-tensors with format '{own}'");
            if (group.Object("output_activations") is not null) throw q.Refused("compressed-tensors with quantized output_activations");
            if (group.Object("input_activations") is { } input) CheckActivations(input);
            if (group.Object("weights") is not { } of) continue;
            CheckWeights(of);
            weights++;
        }
        return weights > 0 ? WeightFormat.Block128 : throw q.Refused("compressed-tensors without weights in config_groups");
    }

    private static void CheckWeights(QuantizationJson w)
    {
        if (w.Text("type") is not "float" || w.Int("num_bits") is not 8 || w.Text("strategy") is not "block")
            throw w.Refused($"compressed-tensors with {w.Int("num_bits") ?? 0}-bit {w.Text("type") ?? "?"} weights per {w.Text("strategy") ?? "?"}");
        if (w.Ints("block_structure") is not [128, 128]) throw w.Refused("compressed-tensors with", "block_structure");
        if (w.Bool("symmetric") is false) throw w.Refused("compressed-tensors with", "symmetric");
        if (w.Bool("dynamic") is true) throw w.Refused("compressed-tensors with", "dynamic");
    }

    /// <summary>Activations are quantized as they come, 128 values of a row at a time.</summary>
    private static void CheckActivations(QuantizationJson a)
    {
        if (a.Text("type") is not "float" || a.Int("num_bits") is not 8)
            throw a.Refused($"compressed-tensors with {a.Int("num_bits") ?? 0}-bit {a.Text("type") ?? "?"} activations");
        if (a.Text("strategy") is not "group") throw a.Refused("compressed-tensors with", "strategy");
        if (a.Int("group_size") is not 128) throw a.Refused("compressed-tensors with", "group_size");
        if (a.Bool("symmetric") is false) throw a.Refused("compressed-tensors with", "symmetric");
        if (a.Bool("dynamic") is not true) throw a.Refused("compressed-tensors with", "dynamic");
    }
}
