using System.Runtime.InteropServices;

namespace MoeSharp.Tests;

/// <summary>Writes BF16, F16 or F32 checkpoints made of random numbers.</summary>
internal static class WideCheckpoint
{
    /// <summary>Qwen3-MoE, a tensor per expert, one shard per layer.</summary>
    public static void WriteQwen3(string folder, string type, int layers, int experts, int hidden, int intermediate)
    {
        var map = new List<string>();
        for (int layer = 0; layer < layers; layer++)
        {
            string file = $"model-{layer + 1:D5}-of-{layers:D5}.safetensors", at = $"model.layers.{layer}.mlp.";
            var tensors = new List<TensorToWrite> { Random("BF16", at + "gate.weight", [experts, hidden], layer) };
            for (int e = 0; e < experts; e++)
            {
                tensors.Add(Random(type, $"{at}experts.{e}.gate_proj.weight", [intermediate, hidden], 10 * e + layer));
                tensors.Add(Random(type, $"{at}experts.{e}.up_proj.weight", [intermediate, hidden], 10 * e + layer + 1));
                tensors.Add(Random(type, $"{at}experts.{e}.down_proj.weight", [hidden, intermediate], 10 * e + layer + 2));
            }
            Write(folder, file, tensors, map);
        }
        WriteJson(folder, map, $$"""
            {"model_type":"qwen3_moe","hidden_size":{{hidden}},"num_hidden_layers":{{layers}},"num_experts":{{experts}},"num_experts_per_tok":2,
             "moe_intermediate_size":{{intermediate}},"norm_topk_prob":true,"hidden_act":"silu","dtype":"bfloat16"}
            """);
    }

    /// <summary>Qwen3.5 as its BF16 release is: gate and up fused and stacked over experts, a gated shared expert, a text_config; a linear layer of
    /// attention.</summary>
    public static void WriteQwen35(string folder, string type, int experts, int hidden, int intermediate)
    {
        const string at = "model.language_model.layers.0.";
        var map = new List<string>();
        Write(folder, "model-00001-of-00001.safetensors",
        [
            Random("BF16", "model.language_model.embed_tokens.weight", [16, hidden], 1),
            Random("BF16", at + "self_attn.o_proj.weight", [hidden, hidden], 2),
            Random("BF16", at + "mlp.gate.weight", [experts, hidden], 3),
            Random(type, at + "mlp.experts.gate_up_proj", [experts, 2 * intermediate, hidden], 4),
            Random(type, at + "mlp.experts.down_proj", [experts, hidden, intermediate], 5),
            Random("BF16", at + "mlp.shared_expert_gate.weight", [1, hidden], 6),
            Random(type, at + "mlp.shared_expert.gate_proj.weight", [intermediate, hidden], 7),
            Random(type, at + "mlp.shared_expert.up_proj.weight", [intermediate, hidden], 8),
            Random(type, at + "mlp.shared_expert.down_proj.weight", [hidden, intermediate], 9),
        ], map);
        WriteJson(folder, map, $$"""
            {"model_type":"qwen3_5_moe","text_config":{"model_type":"qwen3_5_moe_text","hidden_size":{{hidden}},"num_hidden_layers":1,"num_experts":{{experts}},
             "num_experts_per_tok":2,"moe_intermediate_size":{{intermediate}},"shared_expert_intermediate_size":{{intermediate}},"hidden_act":"silu"} }
            """);
    }

    /// <summary>Every file of a folder, by relative path.</summary>
    public static Dictionary<string, byte[]> Files(string folder) =>
        Directory.GetFiles(folder, "*", SearchOption.AllDirectories).ToDictionary(f => Path.GetRelativePath(folder, f), File.ReadAllBytes);

    private static TensorToWrite Random(string type, string name, long[] shape, int seed)
    {
        var random = new Random(seed);
        var values = new float[shape.Aggregate(1L, (a, b) => a * b)];
        foreach (ref float value in values.AsSpan()) value = (random.NextSingle() - 0.5f) * MathF.ScaleB(1, -random.Next(8));
        byte[] bytes = type switch
        {
            "F32" => MemoryMarshal.AsBytes(values.AsSpan()).ToArray(),
            "F16" => MemoryMarshal.AsBytes(values.Select(v => (Half)v).ToArray().AsSpan()).ToArray(),
            _ => MemoryMarshal.AsBytes(values.Select(v => (BFloat16)v).ToArray().AsSpan()).ToArray(),
        };
        return TensorToWrite.Of(name, type, shape, bytes);
    }

    private static void Write(string folder, string file, List<TensorToWrite> tensors, List<string> map)
    {
        Directory.CreateDirectory(folder);
        SafetensorsWriter.Write(Path.Combine(folder, file), tensors);
        map.AddRange(tensors.Select(t => $"\"{t.Name}\":\"{file}\""));
    }

    private static void WriteJson(string folder, List<string> map, string config)
    {
        File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), $"{{\"weight_map\":{{{string.Join(',', map)}}}}}");
        File.WriteAllText(Path.Combine(folder, "config.json"), config);
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), "{\"é\": 1}");
        Directory.CreateDirectory(Path.Combine(folder, "extra"));
        File.WriteAllText(Path.Combine(folder, "extra", "note.txt"), "kept");
    }
}
