using System.Runtime.InteropServices;
using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>Slices of experts and of intermediate rows hold the whole's weights to the bit, wherever they start and whatever else is on the
/// disk.</summary>
public sealed class SliceTests : IDisposable
{
    private const int Hidden = 256;
    private const string Block = "model.layers.0.mlp.";
    private static readonly (string, string, string) Names = ("gate_proj", "up_proj", "down_proj");
    private TinyCheckpoint? _tiny;

    public void Dispose() => _tiny?.Dispose();

    private TinyCheckpoint Tiny(int experts, int intermediate, WeightFormat format)
    {
        _tiny = new(experts, Hidden, intermediate, format);
        _tiny.AddBf16(Block + "gate.weight", experts, Hidden);
        string quantization = format switch
        {
            WeightFormat.Bf16 => "null",
            WeightFormat.MxFp8 => """{"quant_method":"mxfp8"}""",
            _ => $$"""{"quant_method":"fp8","weight_block_size":[128,128],"scale_fmt":"{{(format == WeightFormat.Block128 ? "float" : "ue8m0")}}"}""",
        };
        _tiny.Config = $$"""
            {"model_type":"qwen3_moe","num_experts":{{experts}},"num_experts_per_tok":1,"hidden_size":{{Hidden}},"moe_intermediate_size":{{intermediate}},
             "num_hidden_layers":1,"quantization_config":{{quantization}}}
            """;
        return _tiny;
    }

    /// <summary>I = 320 is half of 640: the fourths start at 80, 160, 240, in the middle of scale blocks.</summary>
    [Theory]
    [InlineData(WeightFormat.Block128, false)]
    [InlineData(WeightFormat.Block128, true)]
    [InlineData(WeightFormat.Block128PowerOfTwo, false)]
    [InlineData(WeightFormat.Block128PowerOfTwo, true)]
    [InlineData(WeightFormat.MxFp8, false)]
    [InlineData(WeightFormat.MxFp8, true)]
    [InlineData(WeightFormat.Bf16, false)]
    [InlineData(WeightFormat.Bf16, true)]
    public void IntermediateSlicesHoldTheBitsOfTheWhole(WeightFormat format, bool isFused)
    {
        const int intermediate = 320;
        TinyCheckpoint tiny = Tiny(2, intermediate, format);
        string scale = format == WeightFormat.MxFp8 ? "U8" : "F32";
        if (isFused) tiny.AddFused(Block + "experts.", "_scale_inv", scale);
        else tiny.AddPerExpert(Block + "experts.", Names, "_scale_inv", scale);
        using Checkpoint model = Checkpoint.Open(tiny.Write());
        foreach ((int first, int count) in
            ((int, int)[])[(0, 320), (0, 80), (80, 80), (160, 80), (240, 80), (0, 160), (160, 160), (37, 101), (128, 128), (319, 1)])
        {
            using LayerParts parts = model.ReadLayer(0, new() { Intermediate = (first, count) });
            int block = format switch { WeightFormat.Bf16 => 1, WeightFormat.MxFp8 => 32, _ => 128 }, leading = first % block;
            Assert.Equal(leading + count, parts.Experts.IntermediateSize);
            for (int e = 0; e < 2; e++)
            {
                string what = $"{format}, fused {isFused}, rows {first} + {count}, expert {e}";
                AssertRows(tiny.Gate[e], parts.Experts.Gate[e], first, leading, what + " gate");
                AssertRows(tiny.Up[e], parts.Experts.Up[e], first, leading, what + " up");
                float[] whole = new float[intermediate], slice = new float[leading + count];
                for (int r = 0; r < Hidden; r++)
                {
                    tiny.Down[e].DequantizeRow(r, whole);
                    parts.Experts.Down[e].DequantizeRow(r, slice);
                    Assert.True(slice.AsSpan(0, leading).IndexOfAnyExcept(0f) < 0, $"{what} down, row {r}: the columns before the slice are not 0");
                    Assert.True(slice.AsSpan(leading).SequenceEqual(whole.AsSpan(first, count)), $"{what} down, row {r}");
                }
            }
        }
    }

    private static void AssertRows(BlockScaledMatrix whole, BlockScaledMatrix slice, int first, int leading, string what)
    {
        float[] expected = new float[whole.Columns], actual = new float[whole.Columns];
        for (int r = 0; r < slice.Rows; r++)
        {
            slice.DequantizeRow(r, actual);
            if (r >= leading) whole.DequantizeRow(first + r - leading, expected);
            Assert.True(actual.AsSpan().SequenceEqual(expected), $"{what}, row {r}"); // the leading rows are 0
        }
    }

    /// <summary>A fused tensor of 2 x 192 rows whose three scale rows do not begin anew with up: the second serves the last 64 rows of gate and the
    /// first 64 of up.</summary>
    [Fact]
    public void ScaleRowsThatStraddleGateAndUpAreReadFromTheFusedRow()
    {
        const int experts = 2, intermediate = 192, fused = 2 * intermediate, scaleRows = 3, scaleColumns = 2;
        TinyCheckpoint tiny = Tiny(experts, intermediate, WeightFormat.Block128);
        var random = new Random(5);
        var codes = new Float8E4M3[experts * fused * Hidden];
        foreach (ref Float8E4M3 code in codes.AsSpan()) code = (Float8E4M3)(random.NextSingle() * 400 - 200);
        float[] scales = [.. Enumerable.Range(0, experts * scaleRows * scaleColumns).Select(_ => random.NextSingle())];
        tiny.Add(Block + "experts.gate_up_proj", "F8_E4M3", [experts, fused, Hidden], MemoryMarshal.AsBytes(codes.AsSpan()).ToArray());
        tiny.Add(Block + "experts.gate_up_proj_scale_inv", "F32", [experts, scaleRows, scaleColumns],
            MemoryMarshal.AsBytes(scales.AsSpan()).ToArray());
        tiny.AddMatrix(Block + "experts.down_proj", "_scale_inv", "F32", tiny.Down);
        using Checkpoint model = Checkpoint.Open(tiny.Write());
        foreach ((int first, int count) in ((int, int)[])[(0, 192), (0, 64), (64, 128), (100, 50)])
        {
            using LayerParts parts = model.ReadLayer(0, new() { Intermediate = (first, count) });
            int leading = first % 128;
            float[] row = new float[Hidden];
            for (int e = 0; e < experts; e++)
            {
                for (int half = 0; half < 2; half++)
                {
                    BlockScaledMatrix matrix = (half == 0 ? parts.Experts.Gate : parts.Experts.Up)[e];
                    for (int r = 0; r < count; r++)
                    {
                        matrix.DequantizeRow(leading + r, row);
                        int at = half * intermediate + first + r;
                        for (int c = 0; c < Hidden; c++)
                        {
                            float scale = scales[(e * scaleRows + at / 128) * scaleColumns + c / 128];
                            Assert.True(row[c] == codes[(e * fused + at) * Hidden + c] * scale,
                                $"rows {first} + {count}, expert {e}, fused row {at}, column {c}");
                        }
                    }
                }
            }
        }
    }

    [Fact]
    public void ExpertsLoadWithoutTheShardsOfOthers()
    {
        TinyCheckpoint tiny = Tiny(6, 64, WeightFormat.MxFp8);
        tiny.AddPerExpert(Block + "experts.", Names, "_scale_inv", "U8");
        string folder = tiny.Write();
        string ShardOf(string name) =>
            name.Split('.') is [_, _, _, _, "experts", var e, ..] ? $"experts-{int.Parse(e) / 2}.safetensors" : "rest.safetensors";
        var map = new JsonObject();
        using (SafetensorsFile all = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")))
        {
            foreach (IGrouping<string, TensorEntry> shard in all.Tensors.Values.GroupBy(t => ShardOf(t.Name)))
                SafetensorsWriter.Write(Path.Combine(folder, shard.Key),
                    [.. shard.Select(t => TensorToWrite.Of(t.Name, t.Type, t.Shape, all.Data(t.Name).ToArray()))]);
            foreach (string name in all.Tensors.Keys) map[name] = ShardOf(name);
        }
        File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), new JsonObject { ["weight_map"] = map }.ToJsonString());
        foreach (string gone in (string[])["model.safetensors", "experts-0.safetensors", "experts-2.safetensors"])
            File.Delete(Path.Combine(folder, gone));

        using Checkpoint model = Checkpoint.Open(folder);
        using LayerParts parts = model.ReadLayer(0, new() { Experts = (2, 2) });
        Assert.Equal([-1, -1, 0, 1, -1, -1], parts.ExpertMap!);
        for (int e = 0; e < 2; e++) AssertRows(tiny.Gate[2 + e], parts.Experts.Gate[e], 0, 0, $"expert {2 + e}");
        using var layer = new MoeLayer(parts);
        Refusal.Of(() => model.ReadLayer(0, new() { Experts = (3, 2) }).Dispose(), "experts-2.safetensors does not exist");
        Refusal.Of(() => model.ReadLayer(0).Dispose(), "experts-0.safetensors does not exist");
    }
}
