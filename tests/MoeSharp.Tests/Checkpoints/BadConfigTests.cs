using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>Configs that are wrong in one way each, beside tensors that are as they should be.</summary>
public sealed class BadConfigTests : IDisposable
{
    private readonly TinyCheckpoint _tiny = new(4, 256, 128, WeightFormat.Block128);
    private readonly JsonObject _config = JsonNode.Parse("""
        {"model_type":"qwen3_moe","num_experts":4,"num_experts_per_tok":2,"hidden_size":256,"moe_intermediate_size":128,"num_hidden_layers":1,"norm_topk_prob":true,
         "hidden_act":"silu","quantization_config":{"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic","weight_block_size":[128,128]}}
        """)!.AsObject();

    public BadConfigTests()
    {
        _tiny.AddPerExpert("model.layers.0.mlp.experts.", ("gate_proj", "up_proj", "down_proj"), "_scale_inv", "F32");
        _tiny.AddBf16("model.layers.0.mlp.gate.weight", 4, 256);
    }

    public void Dispose() => _tiny.Dispose();

    private string Write()
    {
        _tiny.Config = _config.ToJsonString();
        return _tiny.Write();
    }

    [Theory]
    [InlineData("model_type", "\"gemma9\"", "gemma9")]
    [InlineData("hidden_act", "\"relu2\"", "relu2")]
    [InlineData("num_experts_per_tok", "9", "9")]
    [InlineData("num_experts_per_tok", "-1", "-1")]
    [InlineData("num_experts_per_tok", "0", "num_experts_per_tok")]
    [InlineData("num_experts", "4.5", "4.5")]
    [InlineData("swiglu_limit", "-7", "-7")]
    [InlineData("swiglu_limit", "\"7\"", "7")]
    [InlineData("swiglu_alpha", "1.702", "swiglu_alpha is 1.702 but Qwen3-MoE is supported without it")]
    [InlineData("swiglu_limits", "[7.0]", "swiglu_limits")]
    [InlineData("scoring_func", "\"sigmoid\"", "softmax only")]
    [InlineData("num_experts", "5", "experts.4.gate_proj")]
    [InlineData("hidden_size", "384", "[128, 384]")]
    [InlineData("moe_intermediate_size", "256", "[256, 256]")]
    [InlineData("num_hidden_layers", "\"one\"", "one")]
    [InlineData("quantization_config", "{\"quant_method\":\"awq\"}", "awq")]
    [InlineData("quantization_config", "{\"quant_method\":\"mxfp4\"}", "mxfp4")]
    [InlineData("quantization_config", "{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\",\"weight_block_size\":[128,128]}", "static")]
    [InlineData("quantization_config", "{\"quant_method\":\"fp8\"}", "per tensor")]
    [InlineData("quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[64,64]}", "[64, 64]")]
    [InlineData("quantization_config", "{\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\"}", "NVFP4")]
    [InlineData("quantization_config", "{\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":{\"weights\":{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\"}}}}", "channel")]
    [InlineData("quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128],\"scale_fmt\":\"odd\"}", "odd")]
    public void RefusesAConfig(string key, string value, string word)
    {
        _config[key] = JsonNode.Parse(value);
        Refusal.Of(Write(), word);
    }

    [Theory]
    [InlineData("swiglu_alpha", "0")]
    [InlineData("swiglu_limits", "null")]
    [InlineData("scoring_func", "\"softmax\"")]
    public void WhatSaysNoneOrTheUsualIsTaken(string key, string value)
    {
        _config[key] = JsonNode.Parse(value);
        Checkpoint.Open(Write()).Dispose();
    }

    /// <summary>A config decides nothing that could exhaust memory or overflow: it is refused before anything is allocated.</summary>
    [Theory]
    [InlineData("num_experts")]
    [InlineData("num_experts_per_tok")]
    [InlineData("num_hidden_layers")]
    [InlineData("hidden_size")]
    [InlineData("moe_intermediate_size")]
    public void RefusesSizesThatNoModelHas(string key)
    {
        foreach (string size in (string[])["1048577", "2147483647", "2147483648", "9223372036854775808", "1e300"])
        {
            _config[key] = JsonNode.Parse(size);
            Assert.Contains(key, Refusal.Of(Write(), size));
            Assert.Contains(ToolRun.Of("doctor", _tiny.Folder, "--json").Json(1).GetProperty("findings").EnumerateArray(),
                f => f.GetProperty("code").GetString() == "config-unsupported"
                    && f.GetProperty("message").GetString()!.Contains(key, StringComparison.Ordinal));
        }
    }

    [Theory]
    [InlineData("n_group", "2147483647")]
    [InlineData("topk_group", "16385")]
    [InlineData("n_group", "3")]
    [InlineData("topk_group", "2")]
    [InlineData("num_experts_per_tok", "5")]
    [InlineData("n_shared_experts", "16777216")]
    [InlineData("n_shared_experts", "2147483647")]
    public void RefusesRoutersAndSharedExpertsThatCannotBe(string key, string value)
    {
        _config["model_type"] = "deepseek_v3";
        _tiny.AddBf16("model.layers.0.mlp.gate.e_score_correction_bias", 4);
        Refusal.Reads(Write());
        _config[key] = JsonNode.Parse(value);
        Refusal.Of(Write(), key.StartsWith("n_shared", StringComparison.Ordinal) ? $"{128 * long.Parse(value)} wide" : value);
        JsonNode finding = JsonNode.Parse(ToolRun.Of("doctor", _tiny.Folder, "--json").Output)!["findings"]![0]!;
        Assert.Equal("config-unsupported", (string)finding["code"]!);
    }

    /// <summary>As many layers and experts as are let through: the audit names what is missing and does not list it a million times.</summary>
    [Fact]
    public void TheDoctorCountsWhatAConfigPromisesTooMuch()
    {
        _config["num_experts"] = ModelConfig.MostExperts;
        _config["num_hidden_layers"] = ModelConfig.MostLayers;
        Refusal.Of(Write(), "model.layers.0.mlp.experts.4.gate_proj.weight");
        using var doctor = new Doctor(_tiny.Folder);
        Assert.InRange(doctor.Findings.Count, ModelConfig.MostLayers, ModelConfig.MostLayers + 200);
        Assert.Contains(doctor.Findings, f => f.At == new Place(null, "model.layers.0.mlp.experts.4.gate_proj.weight", 0, 4));
        Assert.Contains(doctor.Findings, f => f.At == new Place(Layer: 4095) && f.Code == FindingCode.TensorMissing);
        Assert.Contains(doctor.Findings, f => f.What.StartsWith($"{3 * (ModelConfig.MostExperts - 4) - 100} more tensors", StringComparison.Ordinal));
    }

    /// <summary>Stacked tensors of a byte or two per expert, all of them dead: neither slices nor findings are kept one by one.</summary>
    [Fact]
    public void TheDoctorKeepsItsMemoryUnderHostileStackedTensors()
    {
        const int experts = ModelConfig.MostExperts, layers = 12;
        using var tiny = new TinyCheckpoint(1, 1, 1, WeightFormat.Bf16);
        _config.Remove("quantization_config");
        foreach ((string key, int value) in new[] { ("num_experts", experts), ("num_hidden_layers", layers), ("hidden_size", 1), ("moe_intermediate_size", 1) }) _config[key] = value;
        for (int layer = 0; layer < layers; layer++)
        {
            string block = $"model.layers.{layer}.mlp.";
            tiny.Add(block + "gate.weight", "BF16", [experts, 1], new byte[2 * experts]);
            tiny.Add(block + "experts.gate_up_proj", "BF16", [experts, 2, 1], new byte[4 * experts]);
            tiny.Add(block + "experts.down_proj", "BF16", [experts, 1, 1], new byte[2 * experts]);
        }
        tiny.Config = _config.ToJsonString();
        string folder = tiny.Write();
        const long most = 16 << 20;
        long kept = long.MaxValue;
        for (int attempt = 0; attempt < 5 && kept > most; attempt++) // other tests allocate meanwhile
        {
            long before = GC.GetTotalMemory(forceFullCollection: true);
            using var doctor = new Doctor(folder);
            doctor.Scan((_, _) => { }, TestContext.Current.CancellationToken);
            kept = GC.GetTotalMemory(forceFullCollection: true) - before;
            Assert.Equal(FindingList.MostOfACode + 1, doctor.Findings.Count(f => f.Code == FindingCode.BlockZero));
            Assert.Contains(doctor.Findings, f => f.What == $"{2 * layers * experts - FindingList.MostOfACode} more findings of this kind are not listed.");
        }
        Assert.InRange(kept, long.MinValue, most);
    }

    [Theory]
    [InlineData("\"7\"")]
    [InlineData("7.0")]
    [InlineData("[]")]
    [InlineData("[\"7\"]")]
    [InlineData("[-1]")]
    [InlineData("[1e39]")]
    [InlineData("[[7]]")]
    [InlineData("[true]")]
    public void RefusesLimitsOfStepThatAreNoList(string limits)
    {
        using var tiny = new TinyCheckpoint(2, 64, 64, WeightFormat.Bf16);
        tiny.AddStacked("model.layers.0.moe.", ("gate_proj", "up_proj", "down_proj"), "", "");
        tiny.AddBf16("model.layers.0.moe.gate.weight", 2, 64);
        tiny.AddBf16("model.layers.0.moe.router_bias", 2);
        JsonObject config = JsonNode.Parse("""
            {"model_type":"step3p5","num_hidden_layers":1,"hidden_size":64,"moe_intermediate_size":64,"moe_num_experts":2,"moe_top_k":1,"moe_layers_enum":"0"}
            """)!.AsObject();
        foreach (string fine in (string[])["null", "[7]", "[0]", "[null]", "[7.5, \"unused\"]"])
        {
            config["swiglu_limits"] = JsonNode.Parse(fine);
            tiny.Config = config.ToJsonString();
            Refusal.Reads(tiny.Write());
        }
        config["swiglu_limits"] = JsonNode.Parse(limits);
        tiny.Config = config.ToJsonString();
        Refusal.Of(tiny.Write(), "swiglu_limits", "list");
        config["swiglu_limits"] = null;
        config["moe_layers_enum"] = "0,one";
        tiny.Config = config.ToJsonString();
        Refusal.Of(tiny.Write(), "moe_layers_enum");
    }

    /// <summary>Its shipped configs say swigluoai; a config that says SILU contradicts the family, and which is right cannot be seen.</summary>
    [Fact]
    public void RefusesMiniMaxM3WithAnotherActivation()
    {
        _config["model_type"] = "minimax_m3";
        Refusal.Of(Write(), "'silu'", "swigluoai");
    }

    [Theory]
    [InlineData("scale_fmt", "1")]
    [InlineData("weight_block_size", "128")]
    [InlineData("weight_block_size", "[128,\"128\"]")]
    [InlineData("modules_to_not_convert", "\"lm_head\"")]
    [InlineData("ignored_layers", "[1]")]
    [InlineData("quant_method", "[]")]
    public void RefusesValuesOfAnotherKindInsteadOfTakingThemAsAbsent(string key, string value)
    {
        _config["quantization_config"]![key] = JsonNode.Parse(value);
        Refusal.Of(Write(), $"quantization_config.{key} must be");
        _config["quantization_config"] = "fp8";
        Refusal.Of(Write(), "quantization_config must be an object");
    }

    [Fact]
    public void ControlCharactersOfAConfigDoNotReachTheTerminal()
    {
        _config["hidden_act"] = "silu\u001b[31m\n\u202e";
        Refusal.Of(Write(), "silu\\u001B[31m\\u000A\\u202E");
        _config["hidden_act"] = new string('x', 100_000);
        Assert.InRange(Refusal.Of(Write(), "xxx").Length, 100, 4000);
        File.WriteAllText(Path.Combine(_tiny.Folder, "config.json"), "{\"model_type\":\"\\ud800\"}");
        Refusal.Of(_tiny.Folder, "config.json cannot be read");
    }
}
