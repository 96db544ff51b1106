using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>Every group of a compressed-tensors config must be one that is computed here, not only the first.</summary>
public sealed class CompressedTensorsTests : IDisposable
{
    private readonly TinyCheckpoint _tiny = new(2, 256, 128, WeightFormat.Block128);
    private readonly JsonObject _config = JsonNode.Parse("""
        {"model_type":"qwen3_moe","num_experts":2,"num_experts_per_tok":2,"hidden_size":256,"moe_intermediate_size":128,"num_hidden_layers":1,
         "quantization_config":{"quant_method":"compressed-tensors","format":"float-quantized","ignore":["lm_head"],"config_groups":{"group_0":
          {"targets":["Linear"],"output_activations":null,
           "weights":{"num_bits":8,"type":"float","strategy":"block","block_structure":[128,128],"symmetric":true,"dynamic":false,"observer":"static_minmax"},
           "input_activations":{"num_bits":8,"type":"float","strategy":"group","group_size":128,"symmetric":true,"dynamic":true}}}}}
        """)!.AsObject();

    public CompressedTensorsTests()
    {
        _tiny.AddPerExpert("model.layers.0.mlp.experts.", ("gate_proj", "up_proj", "down_proj"), "_scale", "BF16");
        _tiny.AddBf16("model.layers.0.mlp.gate.weight", 2, 256);
    }

    public void Dispose() => _tiny.Dispose();

    private JsonObject Groups => _config["quantization_config"]!["config_groups"]!.AsObject();

    private string Write()
    {
        _tiny.Config = _config.ToJsonString();
        return _tiny.Write();
    }

    [Theory]
    [InlineData("weights", "num_bits", "4", "4-bit float weights")]
    [InlineData("weights", "type", "\"int\"", "8-bit int weights")]
    [InlineData("weights", "strategy", "\"channel\"", "per channel")]
    [InlineData("weights", "block_structure", "[64,128]", "[64,128]")]
    [InlineData("weights", "symmetric", "false", "symmetric false")]
    [InlineData("weights", "symmetric", "1", "symmetric must be true or false")]
    [InlineData("weights", "dynamic", "true", "dynamic true")]
    [InlineData("input_activations", "num_bits", "4", "4-bit float activations")]
    [InlineData("input_activations", "strategy", "\"token\"", "strategy \"token\"")]
    [InlineData("input_activations", "strategy", "\"tensor\"", "strategy \"tensor\"")]
    [InlineData("input_activations", "group_size", "64", "group_size 64")]
    [InlineData("input_activations", "symmetric", "false", "symmetric false")]
    [InlineData("input_activations", "dynamic", "false", "dynamic false")]
    [InlineData("input_activations", "dynamic", "\"local\"", "dynamic must be true or false")]
    public void RefusesWhatIsNotComputedInAnyGroup(string part, string key, string value, string words)
    {
        Refusal.Reads(Write());
        Groups["group_1"] = Groups["group_0"]!.DeepClone();
        Refusal.Reads(Write());
        Groups["group_1"]![part]![key] = JsonNode.Parse(value);
        Refusal.Of(Write(), words);
    }

    [Fact]
    public void RefusesOtherStorageAndOutputs()
    {
        Groups["group_0"]!["output_activations"] = Groups["group_0"]!["input_activations"]!.DeepClone();
        Refusal.Of(Write(), "output_activations");
        Groups["group_0"]!["output_activations"] = null;
        Groups["group_0"]!["format"] = "nvfp4-pack-quantized";
        Refusal.Of(Write(), "nvfp4-pack-quantized");
        Groups["group_0"]!.AsObject().Remove("format");
        _config["quantization_config"]!["format"] = "pack-quantized";
        Refusal.Of(Write(), "'pack-quantized'");
        _config["quantization_config"]!["format"] = "float-quantized";
        Groups["group_1"] = 3;
        Refusal.Of(Write(), "config_groups.group_1 must be an object");
        Groups.Clear();
        Refusal.Of(Write(), "without weights");
    }

    /// <summary>Weights alone may be quantized; how activations enter the GEMMs is then the caller's choice, as with every format.</summary>
    [Fact]
    public void WeightsAloneMayBeQuantized()
    {
        Groups["group_0"]!["input_activations"] = null;
        Refusal.Reads(Write());
    }
}
