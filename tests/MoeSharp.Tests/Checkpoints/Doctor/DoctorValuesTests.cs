using System.Buffers.Binary;
using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>Weights, routers and biases that are wrong.</summary>
public sealed class DoctorValuesTests : PlantedFindings
{
    [Fact]
    public void ValuesThatAreWrong()
    {
        byte[] original = Stored[Gate5].Data;
        void Plant(string code, Action<byte[]> change)
        {
            byte[] data = [.. original];
            change(data);
            Stored[Gate5] = Stored[Gate5] with { Data = data };
            ExpectOne(code, Shard, Gate5, 1, 5, (0, 1));
        }

        foreach (byte code in (byte[])[0x7F, 0xFF]) Plant("payload-nan", data => data[77 * 256 + 131] = code);
        Plant("block-zero", data => ForBlock(data, 128, i => (byte)(i % 2 == 0 ? 0 : 0x80)));
        Plant("payload-saturated", data => ForBlock(data, 128, i => (byte)(i % 90 == 0 ? i % 180 == 0 ? 0x7E : 0xFE : 0x38)));
        Stored[Gate5] = Stored[Gate5] with { Data = original };
        ForBlock(original, 128, i => (byte)(i % 110 == 0 ? 0x7E : 0x38)); // under 1 %
        Assert.Empty(Examine());
    }

    [Fact]
    public void SeveralBlocksOfATensorAreOneFindingWithACount()
    {
        Array.Fill(Stored[Gate5].Data, (byte)0x7F);
        Finding finding = Assert.Single(Examine());
        Assert.Equal("payload-nan", finding.Code.Name);
        Assert.Equal((0, 0), finding.At.Block);
        Assert.Contains("16384 NaN codes in block (0, 0), the first of 2 such blocks", finding.Message);
    }

    [Fact]
    public void Bf16ExpertsMustBeLeftOutAndFinite()
    {
        var data = new byte[128 * 256 * 2];
        for (int i = 0; i < data.Length; i += 2) data[i + 1] = 0x3F;
        Stored[Gate5] = ("BF16", [128, 256], data);
        Stored.Remove(Scale5);
        ExpectOne("weight-dtype", Shard, Gate5, 1, 5);
        Quantization()["modules_to_not_convert"] = new JsonArray("model.layers.1.mlp.experts.5.gate_proj");
        Assert.Empty(Examine());
        (data[2 * (3 * 256 + 9)], data[2 * (3 * 256 + 9) + 1]) = (0x80, 0xFF);
        ExpectOne("payload-nonfinite", Shard, Gate5, 1, 5);
        Array.Clear(data);
        ExpectOne("block-zero", Shard, Gate5, 1, 5);
    }

    [Theory]
    [InlineData(0x7F80)]
    [InlineData(0x7FC0)]
    public void RoutersThatAreNotFinite(int bits)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(Stored[Router].Data.AsSpan(2 * 300), (ushort)bits);
        ExpectOne("router-nonfinite", Shard, Router, 1, null);
    }

    [Fact]
    public void RouterBiasesThatAreNotFiniteOrMissing()
    {
        const string bias = "model.layers.0.block_sparse_moe.e_score_correction_bias";
        string folder = Repository.PathOf("tests/MoeSharp.Tests/Data/checkpoints/minimax-m2-fp8");
        Stored.Clear();
        Load(folder);
        foreach (string key in Config.Select(p => p.Key).ToArray()) Config.Remove(key);
        foreach ((string key, JsonNode? value) in JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!.AsObject())
            Config[key] = value?.DeepClone();
        (string Type, long[] Shape, byte[] Data) good = Stored[bias];
        Stored[bias] = ("F32", [8], [.. new byte[12], .. BitConverter.GetBytes(float.NaN), .. new byte[16]]);
        ExpectOne("router-nonfinite", Shard, bias, 0, null);
        Stored[bias] = good;
        Assert.Empty(Examine());
        Stored.Remove(bias);
        ExpectOne("tensor-missing", null, bias, 0, null);
        Config["use_routing_bias"] = false;
        Assert.Empty(Examine());
    }

    [Fact]
    public void FusedExpertsAreFoundByExpert()
    {
        const string name = "model.layers.1.mlp.experts.gate_up_proj";
        var fused = new byte[16 * 256 * 256];
        var scales = new List<byte>();
        for (int e = 0; e < 16; e++)
        {
            int at = e * 256 * 256;
            foreach (string half in (string[])["gate_proj", "up_proj"])
            {
                string part = $"model.layers.1.mlp.experts.{e}.{half}.weight";
                Stored[part].Data.CopyTo(fused, at);
                at += 128 * 256;
                scales.AddRange(Stored[part + "_scale_inv"].Data);
                Stored.Remove(part);
                Stored.Remove(part + "_scale_inv");
            }
        }
        byte[] down = [.. Enumerable.Range(0, 16).SelectMany(e => Take($"model.layers.1.mlp.experts.{e}.down_proj.weight"))];
        byte[] downScales = [.. Enumerable.Range(0, 16).SelectMany(e => Take($"model.layers.1.mlp.experts.{e}.down_proj.weight_scale_inv"))];
        Stored[name] = ("F8_E4M3", [16, 256, 256], fused);
        Stored[name + "_scale_inv"] = ("F32", [16, 2, 2], [.. scales]);
        Stored["model.layers.1.mlp.experts.down_proj"] = ("F8_E4M3", [16, 256, 128], down);
        Stored["model.layers.1.mlp.experts.down_proj_scale_inv"] = ("F32", [16, 2, 1], downScales);
        Assert.Empty(Examine());
        fused[(11 * 256 + 200) * 256 + 131] = 0xFF;
        ExpectOne("payload-nan", Shard, name, 1, 11, (1, 1));
    }
}
