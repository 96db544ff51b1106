using System.Text.Json;
using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>Names, types and shapes that do not fit the config, and configs that fit nothing.</summary>
public sealed class DoctorNamesTests : PlantedFindings
{
    [Fact]
    public void TypesAndShapesOfWeights()
    {
        (string Type, long[] Shape, byte[] Data) gate = Stored[Gate5];
        Stored[Gate5] = gate with { Shape = [256, 128] };
        ExpectOne("weight-shape", Shard, Gate5, 1, 5);
        Stored[Gate5] = gate with { Type = "F8_E5M2" };
        ExpectOne("weight-dtype", Shard, Gate5, 1, 5);
        Stored[Gate5] = gate;
        (string Type, long[] Shape, byte[] Data) router = Stored[Router];
        Stored[Router] = router with { Shape = [8, 512] };
        ExpectOne("weight-shape", Shard, Router, 1, null);
        Stored[Router] = router with { Type = "I16" };
        ExpectOne("weight-dtype", Shard, Router, 1, null);
        Stored[Router] = router;
        Quantization()["modules_to_not_convert"] = new JsonArray("model.layers.1.mlp.experts.5.gate_proj");
        ExpectOne("weight-dtype", Shard, Gate5, 1, 5);
    }

    [Fact]
    public void NamesThatAreWrong()
    {
        (string, long[], byte[]) gate = Stored[Gate5];
        Stored.Remove(Gate5);
        Stored.Remove(Scale5);
        ExpectOne("tensor-missing", null, Gate5, 1, 5);
        Stored.Add(Gate5.Replace("gate_proj", "gate_prj"), gate);
        ExpectOne("tensor-misnamed", Shard, Gate5.Replace("gate_proj", "gate_prj"), 1, 5);
    }

    [Theory]
    [InlineData("model.layers.1.mlp.experts.16.gate_proj.weight", 1, 16)]
    [InlineData("model.layers.0.mlp.shared_expert.up_proj.weight", 0, null)]
    [InlineData("model.layers.2.mlp.experts.3.up_proj.weight", 2, 3)]
    public void TensorsTheConfigKnowsNothingOf(string name, int layer, int? expert)
    {
        Stored.Add(name, Stored[Gate5]);
        ExpectOne("tensor-extra", Shard, name, layer, expert);
    }

    [Fact]
    public void IgnoreLists()
    {
        Quantization()["modules_to_not_convert"] = new JsonArray("lm_head", "model.layers.0.mlp.gate", "re:.*self_attn.*");
        Assert.Empty(Examine());
        Quantization()["modules_to_not_convert"] = new JsonArray("lm_heat");
        ExpectOne("ignore-unmatched", "config.json", null, null, null);
        Quantization()["modules_to_not_convert"] = new JsonArray("re:(");
        ExpectOne("ignore-invalid", "config.json", null, null, null);
    }

    [Theory]
    [InlineData("model_type", "martian")]
    [InlineData("num_local_experts", -4)]
    public void ConfigsThatAreNotUnderstood(string key, object value)
    {
        Config[key] = JsonSerializer.SerializeToNode(value);
        ExpectOne("config-unsupported", "config.json", null, null, null);
    }
}
