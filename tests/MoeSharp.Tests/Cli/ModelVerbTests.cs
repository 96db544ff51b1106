using System.Text.Json;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>inspect, verify and bench on the sample checkpoint, and on damaged copies of it.</summary>
public sealed class ModelVerbTests : IDisposable
{
    private static readonly string Sample = Repository.PathOf("samples/tiny-qwen3-moe-fp8");
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void InspectShowsTreeAndTable()
    {
        ToolRun run = ToolRun.Of("inspect", Sample);
        Assert.Equal(0, run.ExitCode);
        foreach (string part in (string[])["2 MoE layers, 194 tensors, 3.15 MB", "layers 0-1", "top-4 of 16", "[128, 256]", "[256, 128]", "block128", "1.57 MB"]) Assert.Contains(part, run.Output);
        Assert.Equal("", run.Error);
    }

    [Fact]
    public void InspectJsonListsEveryLayer()
    {
        JsonElement report = ToolRun.Of("inspect", Sample, "--json").Json();
        JsonElement[] layers = [.. report.GetProperty("layers").EnumerateArray()];
        Assert.Equal([0, 1], layers.Select(layer => layer.GetProperty("layer").GetInt32()));
        JsonElement experts = layers[1].GetProperty("experts");
        Assert.Equal((16, 256, 128, "block128"), (experts.GetProperty("count").GetInt32(), experts.GetProperty("hidden").GetInt32(),
            experts.GetProperty("intermediate").GetInt32(), experts.GetProperty("format").GetString()));
        Assert.Equal((194, 97), (report.GetProperty("tensors").GetInt32(), layers[1].GetProperty("tensors").GetInt32()));
        Assert.Equal(4, layers[0].GetProperty("router").GetProperty("top_k").GetInt32());
        Assert.Equal(JsonValueKind.Null, layers[0].GetProperty("shared_experts").ValueKind);
    }

    /// <summary>What is in tensors is the doctor's and the run's business: here a router of NaN and scales that break the promise of powers of two are as good
    /// as any, and what a layer takes agrees with what reading it gives.</summary>
    [Fact]
    public void InspectReadsHeadersOnly()
    {
        string copy = Copy(config => config.Replace("\"fmt\"", "\"scale_fmt\": \"ue8m0\", \"fmt\""));
        foreach (string shard in Directory.GetFiles(copy, "model-*.safetensors"))
        {
            byte[] bytes = File.ReadAllBytes(shard);
            bytes.AsSpan(8 + (int)BitConverter.ToInt64(bytes)).Fill(0xFF);
            File.WriteAllBytes(shard, bytes);
        }
        Assert.Equal(ToolRun.Of("inspect", Sample, "--json").Json().GetProperty("bytes").GetInt64(), ToolRun.Of("inspect", copy, "--json").Json().GetProperty("bytes").GetInt64());
        Assert.Equal(2, ToolRun.Of("run", copy, "--layer", "0").ExitCode);
        foreach (string folder in SampleCheckpoint.Folders())
        {
            using Checkpoint model = Checkpoint.Open(folder);
            foreach (int layer in model.MoeLayers)
            {
                using LayerParts parts = model.ReadLayer(layer);
                LayerOutline outline = model.Outline(layer);
                static long Bytes(ExpertWeights w) => w.Gate.Concat(w.Up).Concat(w.Down).Sum(m => m.Bytes);
                Assert.True(Bytes(parts.Experts) == outline.Experts.Bytes && parts.Experts.Format == outline.Experts.Format, $"{folder} layer {layer}");
                Assert.Equal(parts.SharedExperts is { } shared ? Bytes(shared) : null, outline.Shared?.Bytes);
                Assert.Equal((parts.RouterCorrectionBias is not null, parts.RouterLogitBias is not null, parts.SharedGate is not null, parts.Experts.Biases is not null),
                    (outline.HasCorrectionBias, outline.HasLogitBias, outline.IsSharedGated, outline.Experts.HasBiases));
            }
        }
    }

    [Theory]
    [InlineData("all", 2)]
    [InlineData("1", 1)]
    public void VerifyChecksEveryExpertOfTheLayersAskedFor(string layer, int count)
    {
        JsonElement report = ToolRun.Of("verify", Sample, "--layer", layer, "--tokens", "6", "--rows", "2", "--json").Json();
        Assert.True(report.GetProperty("passed").GetBoolean());
        Assert.Equal(2, report.GetProperty("rows").GetInt32());
        JsonElement[] layers = [.. report.GetProperty("layers").EnumerateArray()];
        Assert.Equal(count, layers.Length);
        foreach (JsonElement each in layers)
        {
            Assert.Equal(5e-4, each.GetProperty("tolerance").GetDouble());
            Assert.True(each.GetProperty("ids_equal").GetBoolean());
            Assert.Equal(16, each.GetProperty("experts").GetArrayLength());
            Assert.InRange(each.GetProperty("whole_layer").GetProperty("calc_diff").GetDouble(), 0, 5e-4);
        }
    }

    [Fact]
    public void VerifyShowsATable()
    {
        ToolRun run = ToolRun.Of("verify", Sample, "--tokens", "2", "--activations", "bf16", "--backend", "cpu");
        Assert.Equal(0, run.ExitCode);
        Assert.Equal(2, run.Output.Split('\n').Count(line => line.Contains("whole layer")));
        Assert.Contains("worst of 16 experts", run.Output);
        Assert.Contains("2.0e-5", run.Output);
        Assert.Contains("Agrees with the reference: 2 layers, 32 experts.", run.Output);
    }

    [Fact]
    public void BenchTimesALayerOfACheckpoint()
    {
        JsonElement report = ToolRun.Of("bench", Sample, "--layer", "1", "--tokens", "2", "--json").Json();
        JsonElement row = Assert.Single(report.GetProperty("results").EnumerateArray());
        Assert.Equal("tiny-qwen3-moe-fp8 layer 1", row.GetProperty("shape").GetString());
        Assert.Equal("block128", row.GetProperty("format").GetString());
    }

    public static TheoryData<string> Examples =>
        [.. ((Verb[])[new InspectVerb(), new RunVerb(), new VerifyVerb(), new BenchVerb(), new InfoVerb()]).SelectMany(verb => verb.Examples)];

    [Theory]
    [MemberData(nameof(Examples))]
    public void ExamplesOfTheHelpWork(string example)
    {
        string[] words = example.Replace("samples/tiny-qwen3-moe-fp8", "SAMPLE").Replace("qwen3-30b-a3b", "8,2,128,64").Split(' '); // small, for tests
        Assert.Equal("moesharp", words[0]);
        ToolRun run = ToolRun.Of([.. words[1..].Select(word => word == "SAMPLE" ? Sample : word == "y.safetensors" ? _folder[word] : word)]);
        Assert.True(run.ExitCode == 0, $"{example}: {run.Error}");
        Assert.NotEqual("", run.Output);
    }

    [Theory]
    [InlineData("inspect")]
    [InlineData("verify")]
    [InlineData("bench")]
    public void AMissingFolderIsNamed(string verb) => Assert.Contains("no-such-folder", ToolRun.Of(verb, "no-such-folder").Sentence());

    [Theory]
    [InlineData("verify")]
    [InlineData("bench")]
    public void ALayerOutOfRangeIsNamed(string verb) => Assert.Contains("77", ToolRun.Of(verb, Sample, "--layer", "77").Sentence());

    [Theory]
    [InlineData("inspect")]
    [InlineData("verify")]
    [InlineData("bench")]
    public void ATopKAboveTheExpertsIsNamed(string verb) =>
        Assert.Contains("17", ToolRun.Of(verb, Copy(config => config.Replace("\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 17"))).Sentence());

    [Fact]
    public void AnUnknownActivationIsNamed() =>
        Assert.Contains("tanhshrink", ToolRun.Of("verify", Copy(config => config.Replace("\"silu\"", "\"tanhshrink\""))).Sentence());

    [Fact]
    public void AnUnknownQuantizationMethodIsNamed() =>
        Assert.Contains("hqq", ToolRun.Of("inspect", Copy(config => config.Replace("\"fp8\"", "\"hqq\""))).Sentence());

    [Fact]
    public void ATruncatedShardIsNamed()
    {
        string copy = Copy(config => config);
        string shard = Directory.GetFiles(copy, "model-00001-*.safetensors").Single();
        using (FileStream file = File.OpenWrite(shard)) file.SetLength(file.Length - 1000);
        Assert.Contains("model-00001-of-00002.safetensors", ToolRun.Of("inspect", copy).Sentence());
    }

    private string Copy(Func<string, string> change)
    {
        foreach (string file in Directory.GetFiles(Sample)) File.Copy(file, _folder[Path.GetFileName(file)]);
        string config = File.ReadAllText(_folder["config.json"]), changed = change(config);
        File.WriteAllText(_folder["config.json"], changed);
        return _folder.Root;
    }
}
