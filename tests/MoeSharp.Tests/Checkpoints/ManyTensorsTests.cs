using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;

namespace MoeSharp.Tests;

/// <summary>The largest checkpoints have 150,000 tensors in some dozens of shards.</summary>
public sealed class ManyTensorsTests : IDisposable
{
    private const int Layers = 50, Experts = 500, LayersOfShard = 2;
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void OpensAndReadsALayerInSeconds()
    {
        int count = Write();
        Assert.InRange(count, 150_000, 160_000);
        double best = double.MaxValue;
        for (int round = 0; round < 2; round++)
        {
            var watch = Stopwatch.StartNew();
            using Checkpoint model = Checkpoint.Open(_folder.Root);
            using LayerParts parts = model.ReadLayer(Layers - 1);
            best = Math.Min(best, watch.Elapsed.TotalSeconds);
            Assert.Equal(Layers, model.MoeLayers.Count);
            Assert.Equal(count, model.Index.Names.Count);
            Assert.Equal(Experts, parts.Experts.Count);
        }
        Assert.True(best < 3, $"{count} tensors took {best:F2} s");
    }

    /// <summary>Headers by hand and data that is a hole.</summary>
    private int Write()
    {
        int count = 0;
        var map = new StringBuilder("{\"weight_map\":{");
        for (int first = 0; first < Layers; first += LayersOfShard)
        {
            string file = $"model-{first / LayersOfShard + 1:D5}-of-{Layers / LayersOfShard:D5}.safetensors";
            var header = new StringBuilder("{");
            long offset = 0;
            void Add(string name, string type, string shape, int bytes)
            {
                header.Append(offset == 0 ? "" : ",").Append(
                    $"\"{name}\":{{\"dtype\":\"{type}\",\"shape\":[{shape}],\"data_offsets\":[{offset},{offset += bytes}]}}");
                map.Append(count++ == 0 ? "" : ",").Append($"\"{name}\":\"{file}\"");
            }

            for (int layer = first; layer < first + LayersOfShard; layer++)
            {
                string at = $"model.layers.{layer}.mlp.";
                Add($"{at}gate.weight", "BF16", $"{Experts},32", Experts * 64);
                for (int e = 0; e < Experts; e++)
                {
                    foreach (string projection in (string[])["gate_proj", "up_proj", "down_proj"])
                    {
                        Add($"{at}experts.{e}.{projection}.weight", "F8_E4M3", "32,32", 1024);
                        Add($"{at}experts.{e}.{projection}.weight_scale_inv", "F32", "1,1", 4);
                    }
                }
            }
            byte[] json = Encoding.UTF8.GetBytes(header.Append('}').ToString()), size = new byte[8];
            BinaryPrimitives.WriteInt64LittleEndian(size, json.Length);
            using FileStream stream = File.Create(_folder[file]);
            stream.Write(size);
            stream.Write(json);
            stream.SetLength(8 + json.Length + offset);
        }
        File.WriteAllText(_folder["model.safetensors.index.json"], map.Append("}}").ToString());
        File.WriteAllText(_folder["config.json"], $$"""
            {"model_type":"qwen3_moe","num_experts":{{Experts}},"num_experts_per_tok":2,"hidden_size":32,"moe_intermediate_size":32,"num_hidden_layers":{{Layers}},
             "quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]} }
            """);
        return count;
    }
}
