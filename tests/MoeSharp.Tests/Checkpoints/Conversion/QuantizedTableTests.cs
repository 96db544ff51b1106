using System.Text.Json;

namespace MoeSharp.Tests;

/// <summary>
/// What serving engines look for in an FP8 checkpoint of each family, written down here as the families publish it: names, types and shapes of an
/// expert's tensors, and quantization_config key by key.
/// </summary>
public sealed class QuantizedTableTests : IDisposable
{
    private const int Experts = 2, Hidden = 256, Intermediate = 192;
    private static readonly (string, string, string) Long = ("gate_proj", "up_proj", "down_proj"), Short = ("w1", "w3", "w2");
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private sealed record Layout(string Config, string Prefix, string Block, (string, string, string) Names, bool IsStacked = false,
        string[]? Router = null)
    {
        /// <summary>The first expert's gate, or all gates.</summary>
        public string Gate => $"{Prefix}layers.0.{Block}.{(IsStacked ? "" : "experts.0.")}{Names.Item1}.weight";
    }

    private static readonly Dictionary<string, Layout> Layouts = new()
    {
        ["deepseek_v3"] = new("\"n_routed_experts\":2,\"num_experts_per_tok\":1,\"moe_intermediate_size\":192", "model.", "mlp", Long,
            Router: ["gate.weight", "gate.e_score_correction_bias"]),
        ["qwen3_moe"] = new(
            "\"num_experts\":2,\"num_experts_per_tok\":1,\"moe_intermediate_size\":192", "model.", "mlp", Long, Router: ["gate.weight"]),
        ["minimax_m2"] = new("\"num_local_experts\":2,\"num_experts_per_tok\":1,\"intermediate_size\":192", "model.", "block_sparse_moe", Short,
            Router: ["gate.weight", "e_score_correction_bias"]),
        ["minimax_m3"] = new(
            "\"num_local_experts\":2,\"num_experts_per_tok\":1,\"intermediate_size\":192", "language_model.model.", "block_sparse_moe", Short,
            Router: ["gate.weight", "e_score_correction_bias"]),
        ["step3p5"] = new(
            "\"moe_num_experts\":2,\"moe_top_k\":1,\"moe_intermediate_size\":192,\"moe_layers_enum\":\"0\"", "model.", "moe", Long, IsStacked: true,
            Router: ["gate.weight", "router_bias"]),
    };

    [Theory]
    [InlineData("deepseek_v3", "block128", "F32", "e4m3")]
    [InlineData("deepseek_v3", "block128-pow2", "F32", "e4m3")]
    [InlineData("qwen3_moe", "block128", "BF16", "e4m3")]
    [InlineData("qwen3_moe", "mxfp8", "U8", "e4m3")]
    [InlineData("minimax_m2", "block128", "F32", "float8_e4m3fn")]
    [InlineData("minimax_m3", "mxfp8", "U8", "e4m3")]
    [InlineData("step3p5", "block128", "F32", "e4m3")]
    [InlineData("step3p5", "mxfp8", "U8", "e4m3")]
    public void NamesTypesAndKeysAreThoseOfTheTable(string family, string format, string scaleType, string fmt)
    {
        Layout layout = Layouts[family];
        Assert.Equal(0, ToolRun.Of("quantize", Wide(family, layout), "--format", format, "--out", _folder["fp8"]).ExitCode);

        var tensors = new Tensors(_folder["fp8/model.safetensors"]);
        long[] leading = layout.IsStacked ? [Experts] : [];
        (long[] gateScales, long[] downScales) = format == "mxfp8"
            ? ((long[])[Intermediate, Hidden / 32], (long[])[Hidden, Intermediate / 32])
            : ([2, 2], [2, 2]);
        string gate = layout.Gate, down = gate.Replace(layout.Names.Item1 + ".weight", layout.Names.Item3 + ".weight", StringComparison.Ordinal);
        Assert.Equal("F8_E4M3", tensors.Type(gate));
        Assert.Equal([.. leading, Intermediate, Hidden], tensors.Shape(gate));
        Assert.Equal([.. leading, Hidden, Intermediate], tensors.Shape(down));
        Assert.Equal((scaleType, scaleType), (tensors.Type(gate + "_scale_inv"), tensors.Type(down + "_scale_inv")));
        Assert.Equal([.. leading, .. gateScales], tensors.Shape(gate + "_scale_inv"));
        Assert.Equal([.. leading, .. downScales], tensors.Shape(down + "_scale_inv"));

        JsonElement declared = Declared();
        var expected = new SortedDictionary<string, string>(StringComparer.Ordinal)
        {
            ["activation_scheme"] = "\"dynamic\"",
            ["fmt"] = $"\"{fmt}\"",
            ["quant_method"] = format == "mxfp8" ? "\"mxfp8\"" : "\"fp8\"",
            ["weight_block_size"] = format == "mxfp8" ? "[1,32]" : "[128,128]",
        };
        if (format != "block128") expected["scale_fmt"] = "\"ue8m0\"";
        string at = $"{layout.Prefix}layers.0.";
        string[] left = [$"{at}{layout.Block}.gate", $"{at}self_attn.o_proj", $"{at}self_attn.q_proj", "lm_head"];
        expected["modules_to_not_convert"] = $"[{string.Join(',', left.Order(StringComparer.Ordinal).Select(module => $"\"{module}\""))}]";
        if (format == "mxfp8") expected["ignored_layers"] = expected["modules_to_not_convert"];
        Assert.Equal(expected.OrderBy(p => p.Key, StringComparer.Ordinal).Select(p => $"{p.Key}: {p.Value}"),
            declared.EnumerateObject().OrderBy(p => p.Name, StringComparer.Ordinal).Select(
                p => $"{p.Name}: {string.Concat(p.Value.GetRawText().Where(c => !char.IsWhiteSpace(c)))}"));
        Assert.Equal(0, ToolRun.Of("run", _folder["fp8"], "--layer", "0", "--tokens", "3", "--verify").ExitCode);
        Assert.Equal(0, ToolRun.Of("doctor", _folder["fp8"]).ExitCode);
    }

    /// <summary>Every matrix of the result is either FP8 with scales or in the list (but for embeddings, which are no linear layers), and nothing is
    /// both.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void EveryLinearLayerIsFp8OrListed(bool linears)
    {
        string[] option = linears ? ["--linears"] : [];
        Assert.Equal(0, ToolRun.Of(
            ["quantize", Wide("deepseek_v3", Layouts["deepseek_v3"]), "--format", "block128", "--out", _folder["fp8"], .. option]).ExitCode);
        string[] listed = [.. Declared().GetProperty("modules_to_not_convert").EnumerateArray().Select(m => m.GetString()!)];
        using SafetensorsFile file = SafetensorsFile.Open(_folder["fp8/model.safetensors"]);
        foreach (TensorEntry tensor in file.Tensors.Values.Where(t => t.Shape.Length == 2 && t.Name.EndsWith(".weight", StringComparison.Ordinal)))
        {
            bool isFp8 = tensor.Type == "F8_E4M3", isListed = listed.Contains(tensor.Name[..^7]);
            Assert.True(tensor.Name.Contains("embed_tokens", StringComparison.Ordinal) ? !isFp8 && !isListed : isFp8 != isListed,
                $"{tensor.Name} is {tensor.Type}, listed: {isListed}");
            Assert.Equal(isFp8, file.Tensors.ContainsKey(tensor.Name + "_scale_inv"));
        }
        Assert.Equal(linears ? "F8_E4M3" : "BF16", file.Tensors["model.layers.0.self_attn.q_proj.weight"].Type);
        Assert.Equal("BF16", file.Tensors["model.layers.0.mlp.gate.weight"].Type);
    }

    private JsonElement Declared() =>
        JsonDocument.Parse(File.ReadAllBytes(_folder["fp8/config.json"])).RootElement.GetProperty("quantization_config");

    /// <summary>A decoder layer with attention, a router and experts in BF16, with embeddings and a head.</summary>
    private string Wide(string family, Layout layout)
    {
        using var tiny = new TinyCheckpoint(Experts, Hidden, Intermediate, WeightFormat.Bf16);
        string at = $"{layout.Prefix}layers.0.", block = $"{at}{layout.Block}.";
        if (layout.IsStacked) tiny.AddStacked(block, layout.Names, "", "");
        else tiny.AddPerExpert(block + "experts.", layout.Names, "", "");
        foreach (string router in layout.Router!)
        {
            if (router.EndsWith("weight", StringComparison.Ordinal)) tiny.AddBf16(block + router, Experts, Hidden);
            else tiny.AddBf16(block + router, Experts);
        }
        tiny.AddBf16($"{layout.Prefix}embed_tokens.weight", 16, Hidden);
        tiny.AddBf16($"{at}self_attn.q_proj.weight", Hidden, Hidden);
        tiny.AddBf16($"{at}self_attn.o_proj.weight", Hidden, Hidden);
        tiny.AddBf16($"{at}input_layernorm.weight", Hidden);
        tiny.AddBf16("lm_head.weight", 16, Hidden);
        string activation = family == "minimax_m3" ? "swigluoai" : "silu";
        tiny.Config = $"{{\"model_type\":\"{family}\",\"hidden_size\":{Hidden},\"num_hidden_layers\":1,\"hidden_act\":\"{activation}\",{layout.Config}}}";
        Directory.CreateDirectory(_folder["wide"]);
        foreach (string file in Directory.GetFiles(tiny.Write())) File.Copy(file, _folder[$"wide/{Path.GetFileName(file)}"]);
        return _folder["wide"];
    }
}
