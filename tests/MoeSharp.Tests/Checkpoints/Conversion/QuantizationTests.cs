using System.Text.Json;

namespace MoeSharp.Tests;

public sealed class QuantizationTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private string At(string name) => _folder[name];

    [Theory]
    [InlineData("BF16", "block128", 192, 96)]
    [InlineData("F16", "block128-pow2", 256, 128)]
    [InlineData("F32", "mxfp8", 192, 96)]
    public void QuantizedModelReopensWithTheReportedErrorAndVerifies(string type, string format, int hidden, int intermediate)
    {
        WideCheckpoint.WriteQwen3(At("wide"), type, layers: 2, experts: 3, hidden, intermediate);
        JsonElement report = ToolRun.Of("quantize", At("wide"), "--format", format, "--out", At("fp8"), "--json").Json();

        using Checkpoint model = Checkpoint.Open(At("fp8"));
        for (int layer = 0; layer < 2; layer++)
        {
            var wide = new Tensors(Path.Combine(At("wide"), $"model-{layer + 1:D5}-of-00002.safetensors"));
            using LayerParts parts = model.ReadLayer(layer);
            for (int e = 0; e < 3; e++)
            {
                double squares = 0, errors = 0;
                foreach (BlockScaledMatrix matrix in (BlockScaledMatrix[])[parts.Experts.Gate[e], parts.Experts.Up[e], parts.Experts.Down[e]])
                {
                    float[] before = Floats(wide, matrix.Name), after = new float[matrix.Columns];
                    for (int r = 0; r < matrix.Rows; r++)
                    {
                        matrix.DequantizeRow(r, after);
                        for (int c = 0; c < after.Length; c++)
                        {
                            double x = before[r * after.Length + c];
                            squares += x * x;
                            errors += (after[c] - x) * (after[c] - x);
                        }
                    }
                }
                JsonElement said = report.GetProperty("layers")[layer].GetProperty("experts")[e];
                double relative = Math.Sqrt(errors / squares);
                Assert.Equal(e, said.GetProperty("expert").GetInt32());
                Assert.Equal(relative, said.GetProperty("relative_error").GetDouble(), 1e-9);
                Assert.Equal(-20 * Math.Log10(relative), said.GetProperty("snr_db").GetDouble(), 1e-6);
                Assert.InRange(relative, 0.01, 0.04); // three bits of mantissa: 2^-4 at most, uniform within
                Assert.Equal(0, said.GetProperty("dead_blocks").GetInt32());
                Assert.InRange(said.GetProperty("saturated_share").GetDouble(), 0, 0.05);
            }
        }
        Assert.Equal(0, ToolRun.Of("run", At("fp8"), "--layer", "1", "--tokens", "5", "--verify").ExitCode);
        Assert.Equal(format == "mxfp8" ? WeightFormat.MxFp8 : format == "block128" ? WeightFormat.Block128 : WeightFormat.Block128PowerOfTwo,
            model.QuantizedFormat);
    }

    [Fact]
    public void FusedExpertsBecomeATensorEachInTheFamilysNames()
    {
        WideCheckpoint.WriteQwen35(At("wide"), "BF16", experts: 3, hidden: 256, intermediate: 192);
        Assert.Equal(0, ToolRun.Of("quantize", At("wide"), "--format", "block128", "--out", At("fp8")).ExitCode);

        var wide = new Tensors(Path.Combine(At("wide"), "model-00001-of-00001.safetensors"));
        var fp8 = new Tensors(Path.Combine(At("fp8"), "model-00001-of-00001.safetensors"));
        const string at = "model.language_model.layers.0.mlp.";
        Assert.False(fp8.Has(at + "experts.gate_up_proj"));
        float[] fused = Floats(wide, at + "experts.gate_up_proj");
        for (int e = 0; e < 3; e++)
        {
            for (int half = 0; half < 2; half++)
            {
                string name = $"{at}experts.{e}.{(half == 0 ? "gate" : "up")}_proj.weight";
                Assert.Equal(("F8_E4M3", "BF16"), (fp8.Type(name), fp8.Type(name + "_scale_inv")));
                Assert.Equal([192, 256], fp8.Shape(name));
                Assert.Equal([2, 2], fp8.Shape(name + "_scale_inv"));
                Float8E4M3[] codes = fp8.Get<Float8E4M3>(name);
                BFloat16[] scales = fp8.Get<BFloat16>(name + "_scale_inv");
                for (int i = 0; i < codes.Length; i++)
                {
                    float scale = scales[i / 256 / 128 * 2 + i % 256 / 128], x = fused[(e * 2 + half) * codes.Length + i];
                    Assert.True(Math.Abs(codes[i] * scale - x) <= Math.Max(Math.Abs(x) / 16, scale / 512) * 1.001f,
                        $"{name}[{i}]: {x} became {codes[i] * scale}");
                }
            }
        }
        Assert.Equal(wide.Bytes(at + "gate.weight"), fp8.Bytes(at + "gate.weight"));
        Assert.Equal(0, ToolRun.Of("run", At("fp8"), "--layer", "0", "--tokens", "4", "--verify").ExitCode);
        Assert.Equal(
            ["lm_head", "model.language_model.layers.0.mlp.gate", "model.language_model.layers.0.mlp.shared_expert_gate",
                "model.language_model.layers.0.self_attn.o_proj"],
            Declared(At("fp8")).GetProperty("modules_to_not_convert").EnumerateArray().Select(m => m.GetString()!).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void OtherLinearLayersAreQuantizedOnDemand()
    {
        WideCheckpoint.WriteQwen35(At("wide"), "BF16", experts: 2, hidden: 256, intermediate: 128);
        Assert.Equal(0, ToolRun.Of("quantize", At("wide"), "--format", "block128", "--linears", "--out", At("fp8")).ExitCode);
        var fp8 = new Tensors(Path.Combine(At("fp8"), "model-00001-of-00001.safetensors"));
        Assert.Equal("F8_E4M3", fp8.Type("model.language_model.layers.0.self_attn.o_proj.weight"));
        Assert.Equal("BF16", fp8.Type("model.language_model.embed_tokens.weight"));
        Assert.DoesNotContain("o_proj", Declared(At("fp8")).GetProperty("modules_to_not_convert").GetRawText());
    }

    /// <summary>Samples were published quantized: widened and quantized again they declare what they declared, in the same names, types and
    /// shapes.</summary>
    [Theory]
    [InlineData("deepseek-v3.1-ue8m0", "block128-pow2", "F32", "e4m3")]
    [InlineData("minimax-m2-fp8", "block128", "F32", "float8_e4m3fn")]
    [InlineData("qwen3-moe-mxfp8", "mxfp8", "U8", "e4m3")]
    [InlineData("qwen3-next-fp8", "block128", "BF16", "e4m3")]
    public void ConfigAndTensorsAreThoseOfTheFamily(string sample, string format, string scales, string fmt)
    {
        string source = Repository.PathOf($"tests/MoeSharp.Tests/Data/checkpoints/{sample}");
        Assert.Equal(0, ToolRun.Of("dequantize", source, "--out", At("wide")).ExitCode);
        Assert.False(JsonDocument.Parse(File.ReadAllBytes(Path.Combine(At("wide"), "config.json"))).RootElement.TryGetProperty("quantization_config",
            out _));
        Assert.Equal(0, ToolRun.Of("quantize", At("wide"), "--format", format, "--linears", "--out", At("fp8")).ExitCode);

        JsonElement before = Declared(source), after = Declared(At("fp8"));
        string[] lists = format == "mxfp8" ? ["ignored_layers", "modules_to_not_convert"] : ["modules_to_not_convert"];
        Assert.Equal(Keys(before).Concat(lists).Distinct().Order(StringComparer.Ordinal), Keys(after).Order(StringComparer.Ordinal));
        Assert.Equal(fmt, after.GetProperty("fmt").GetString());
        foreach (string key in Keys(before).Except([.. lists, "fmt"]))
            Assert.True(JsonElement.DeepEquals(before.GetProperty(key), after.GetProperty(key)),
                $"{key}: {before.GetProperty(key)} became {after.GetProperty(key)}");

        using var index = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(At("fp8"), "model.safetensors.index.json")));
        long total = 0;
        foreach (IGrouping<string, JsonProperty> file in index.RootElement.GetProperty("weight_map").EnumerateObject().GroupBy(
            p => p.Value.GetString()!))
        {
            Tensors was = new(Path.Combine(source, file.Key)), now = new(Path.Combine(At("fp8"), file.Key));
            foreach (string name in file.Select(p => p.Name))
            {
                Assert.True(now.Has(name), $"{name} is not in {file.Key}.");
                total += now.Bytes(name).Length;
                if (name.EndsWith("_scale_inv", StringComparison.Ordinal)) Assert.Equal(scales, now.Type(name));
                if (was.Has(name)) Assert.Equal(was.Shape(name), now.Shape(name));
            }
        }
        Assert.Equal(total, index.RootElement.GetProperty("metadata").GetProperty("total_size").GetInt64());
        Assert.Equal(0, ToolRun.Of("verify", At("fp8"), "--tokens", "4").ExitCode);
    }

    [Fact]
    public void WhatCannotBeQuantizedIsOneSentence()
    {
        WideCheckpoint.WriteQwen3(At("wide"), "BF16", layers: 1, experts: 2, hidden: 32, intermediate: 32);
        string sample = Repository.PathOf("samples/tiny-qwen3-moe-fp8");
        Assert.Contains("is quantized already", ToolRun.Of("quantize", sample, "--format", "mxfp8", "--out", At("a")).Sentence());
        Assert.Contains("nothing to dequantize", ToolRun.Of("dequantize", At("wide"), "--out", At("a")).Sentence());
        Assert.Contains("exists already", ToolRun.Of("dequantize", sample, "--out", At("wide")).Sentence());
        Assert.Contains("outside of it", ToolRun.Of("quantize", At("wide"), "--format", "mxfp8", "--out", Path.Combine(At("wide"), "x")).Sentence());
        Assert.Contains("mend that and give the same command",
            ToolRun.Of("dequantize", sample, "--out", Path.Combine(At("wide"), "config.json", "x")).Sentence());
        Assert.False(Directory.Exists(At("a")) || Directory.Exists(At("a.partial")));

        WriteNaN(Path.Combine(At("wide"), "model-00001-of-00001.safetensors"));
        Assert.Contains("holds NaN at row 0, column 0 of", ToolRun.Of("quantize", At("wide"), "--format", "mxfp8", "--out", At("a")).Sentence());

        if (SharedData.Find("checkpoints/gpt-oss-bf16") is { } oss)
            Assert.Contains("it is not quantized", ToolRun.Of("quantize", oss, "--format", "mxfp8", "--out", At("b")).Sentence());
    }

    /// <summary>Makes NaN of the whole of one expert's tensor, the last but the router.</summary>
    private static void WriteNaN(string file)
    {
        byte[] bytes = File.ReadAllBytes(file);
        const int router = 2 * 32 * 2, expert = 32 * 32 * 2;
        bytes.AsSpan(bytes.Length - router - expert, expert).Fill(0xFF);
        File.WriteAllBytes(file, bytes);
    }

    private static JsonElement Declared(string folder) =>
        JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "config.json"))).RootElement.GetProperty("quantization_config");

    private static IEnumerable<string> Keys(JsonElement json) => json.EnumerateObject().Select(p => p.Name);

    private static float[] Floats(Tensors tensors, string name) => tensors.Type(name) switch
    {
        "F32" => tensors.Get<float>(name),
        "F16" => [.. tensors.Get<Half>(name).Select(v => (float)v)],
        _ => [.. tensors.Get<BFloat16>(name).Select(v => v.ToSingle())],
    };
}
