using System.Text.Json;

namespace MoeSharp.Tests;

public sealed class RunTests : IDisposable
{
    private const int Hidden = 256, TopK = 4, Experts = 16; // of the sample
    private static readonly string Sample = Repository.PathOf("samples/tiny-qwen3-moe-fp8");
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private static float[] Values(int tokens) => [.. Enumerable.Range(0, tokens * Hidden).Select(i => MathF.Sin(i))];

    private static BFloat16[] Rounded(float[] values) => [.. values.Select(BFloat16.FromSingle)];

    private string Input(int tokens = 3) => new TensorFile().Add("hidden_states", "F32", [tokens, Hidden], Values(tokens)).Save(_folder["x.safetensors"]);

    [Fact]
    public void JsonTellsWhatRanHowFastAndHowRight()
    {
        JsonElement report = ToolRun.Of("run", Sample, "--layer", "1", "--tokens", "5", "--verify", "--json").Json();
        foreach (string member in (string[])["model", "layer", "tokens", "backend", "kernel", "load_ms", "load_bytes", "median_ms", "bytes", "flops", "gb_per_s", "gflop_per_s", "verification"])
            Assert.True(report.TryGetProperty(member, out _), member);
        Assert.Equal(5, report.GetProperty("tokens").GetInt32());
        Assert.Equal(6L * 5 * TopK * Hidden * 128, report.GetProperty("flops").GetInt64());
        Assert.True(report.GetProperty("verification").GetProperty("passed").GetBoolean());
    }

    [Fact]
    public void WordsTellTheSame()
    {
        ToolRun run = ToolRun.Of("run", Sample, "--layer", "0", "--verify");
        Assert.Equal(0, run.ExitCode);
        Assert.DoesNotContain('\u001b', run.Output + run.Error);
        foreach (string word in (string[])["layer", "backend", "time", "GB/s", "GFLOP/s", "reference", "ok"]) Assert.Contains(word, run.Output);
    }

    [Theory]
    [InlineData("bf16", "BF16")]
    [InlineData("f32", "F32")]
    public void OutputHoldsTheLayersResultAndItsRouting(string option, string type)
    {
        string y = _folder["y.safetensors"];
        Assert.Equal(0, ToolRun.Of("run", Sample, "--layer", "0", "--input", Input(), "--output", y, "--output-dtype", option).ExitCode);
        var file = new Tensors(y);
        Assert.Equal(type, file.Type("output"));
        Assert.Equal([3, Hidden], file.Shape("output"));
        using Checkpoint model = Checkpoint.Open(Sample);
        using MoeLayer layer = MoeLayer.Load(model, 0);
        var ids = new int[3 * TopK];
        var weights = new float[ids.Length];
        layer.Router.Route(Rounded(Values(3)), ids, weights);
        Assert.Equal([3, TopK], file.Shape("topk_ids"));
        Assert.Equal(ids, file.Get<int>("topk_ids"));
        Assert.Equal(weights, file.Get<float>("topk_weights"));
        var expected = new float[3 * Hidden];
        layer.Forward(Rounded(Values(3)), expected);
        if (type == "F32") Assert.Equal(expected, file.Get<float>("output"));
        else Assert.Equal(Rounded(expected), file.Get<BFloat16>("output"));
        Assert.Equal(["x.safetensors", "y.safetensors"], Directory.GetFiles(_folder.Root).Select(Path.GetFileName).Order());
    }

    [Fact]
    public void HiddenStatesMayBeBF16F16OrF32()
    {
        float[] values = [.. Values(2).Select(value => BFloat16.FromSingle(MathF.Round(value * 64) / 64).ToSingle())]; // exact in all three
        string Output(TensorFile input, string name)
        {
            string y = _folder[$"{name}.out"];
            ToolRun run = ToolRun.Of("run", Sample, "--layer", "0", "--input", input.Save(_folder[name]), "--output", y);
            Assert.True(run.ExitCode == 0, run.Error);
            return Convert.ToHexString(File.ReadAllBytes(y));
        }

        string f32 = Output(new TensorFile().Add("hidden_states", "F32", [2, Hidden], values), "f32");
        Assert.Equal(f32, Output(new TensorFile().Add("hidden_states", "F16", [2, Hidden], values.Select(v => (Half)v).ToArray()), "f16"));
        Assert.Equal(f32, Output(new TensorFile().Add("hidden_states", "BF16", [2, Hidden], Rounded(values)), "bf16"));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void GivenIdsAndWeightsBypassTheRouter(bool wide)
    {
        int[] ids = [0, 1, 2, 3, 15, -1, 7, 7, 4, 5, 6, 8];
        float[] weights = [.. ids.Select((_, i) => 0.1f * i)];
        TensorFile input = new TensorFile().Add("hidden_states", "F32", [3, Hidden], Values(3)).Add("topk_weights", "F32", [3, TopK], weights);
        input = wide ? input.Add("topk_ids", "I64", [3, TopK], ids.Select(id => (long)id).ToArray()) : input.Add("topk_ids", "I32", [3, TopK], ids);
        string y = _folder["y.safetensors"];
        ToolRun run = ToolRun.Of("run", Sample, "--layer", "0", "--input", input.Save(_folder["x.safetensors"]), "--output", y, "--output-dtype", "f32", "--verify");
        Assert.True(run.ExitCode == 0, run.Error);
        var file = new Tensors(y);
        Assert.Equal(ids, file.Get<int>("topk_ids"));
        Assert.Equal(weights, file.Get<float>("topk_weights"));
        using Checkpoint model = Checkpoint.Open(Sample);
        using MoeLayer layer = MoeLayer.Load(model, 0);
        var expected = new float[3 * Hidden];
        layer.Forward(Rounded(Values(3)), ids, weights, expected);
        Assert.Equal(expected, file.Get<float>("output"));
    }

    [Fact]
    public void SeedsRepeatAndDiffer()
    {
        string Output(string seed)
        {
            string y = _folder[$"{Guid.NewGuid():N}"];
            Assert.Equal(0, ToolRun.Of("run", Sample, "--layer", "0", "--tokens", "2", "--seed", seed, "--output", y).ExitCode);
            return Convert.ToHexString(File.ReadAllBytes(y));
        }

        Assert.Equal(Output("5"), Output("5"));
        Assert.NotEqual(Output("5"), Output("6"));
    }

    [Fact]
    public void NoTokensAreARunToo()
    {
        string y = _folder["y.safetensors"];
        ToolRun run = ToolRun.Of("run", Sample, "--layer", "0", "--tokens", "0", "--output", y, "--verify", "--json");
        Assert.Equal(0, run.Json().GetProperty("tokens").GetInt32());
        Assert.Equal([0, Hidden], new Tensors(y).Shape("output"));
    }

    [Theory]
    [InlineData("reference", "fp8")]
    [InlineData("cpu", "fp8")]
    [InlineData("cpu", "bf16")]
    public void BackendsAndActivationsCanBeChosen(string backend, string activations)
    {
        JsonElement report = ToolRun.Of("run", Sample, "--layer", "0", "--backend", backend, "--activations", activations, "--experts-only", "--verify", "--json").Json();
        Assert.Equal(backend, report.GetProperty("backend").GetString());
        Assert.Equal(activations, report.GetProperty("activations").GetString());
        Assert.True(report.GetProperty("experts_only").GetBoolean());
    }

    [Fact]
    public void WhatCannotBeConfirmedFailsTheCheck()
    {
        float[] values = Values(2);
        values[5] = float.NaN; // the output is NaN then, which agrees with nothing
        string x = new TensorFile().Add("hidden_states", "F32", [2, Hidden], values).Save(_folder["x.safetensors"]);
        ToolRun run = ToolRun.Of("run", Sample, "--layer", "0", "--input", x, "--verify", "--json");
        JsonElement verification = run.Json(exitCode: 1).GetProperty("verification");
        Assert.False(verification.GetProperty("passed").GetBoolean());
        Assert.Equal(JsonValueKind.Null, verification.GetProperty("calc_diff").ValueKind);
        Assert.Contains("FAILED", ToolRun.Of("run", Sample, "--layer", "0", "--input", x, "--verify").Output);
    }

    [Fact]
    public void AMissingInputIsNamed() =>
        Assert.Contains("nowhere.safetensors", ToolRun.Of("run", Sample, "--layer", "0", "--input", _folder["nowhere.safetensors"]).Sentence());

    [Fact]
    public void AWrongHiddenSizeIsNamedWithTheRightOne()
    {
        string x = new TensorFile().Add("hidden_states", "F32", [2, 100], new float[200]).Save(_folder["x.safetensors"]);
        string sentence = ToolRun.Of("run", Sample, "--layer", "0", "--input", x).Sentence();
        foreach (string part in (string[])["hidden_states", "[2, 100]", "256", "x.safetensors"]) Assert.Contains(part, sentence);
    }

    [Fact]
    public void WrongTensorsAreNamed()
    {
        string Sentence(TensorFile input) => ToolRun.Of("run", Sample, "--layer", "0", "--input", input.Save(_folder["x.safetensors"])).Sentence();
        TensorFile Hidden3() => new TensorFile().Add("hidden_states", "F32", [3, Hidden], Values(3));
        var ids = new int[3 * TopK];
        var weights = new float[3 * TopK];

        Assert.Contains("hidden_states", Sentence(new TensorFile().Add("x", "F32", [1], new float[1])));
        Assert.Contains("I32", Sentence(new TensorFile().Add("hidden_states", "I32", [3, Hidden], new int[3 * Hidden])));
        Assert.Contains("topk_weights", Sentence(Hidden3().Add("topk_ids", "I32", [3, TopK], ids)));
        Assert.Contains("topk_ids", Sentence(Hidden3().Add("topk_weights", "F32", [3, TopK], weights)));
        Assert.Contains("[3, 3]", Sentence(Hidden3().Add("topk_ids", "I32", [3, 3], new int[9]).Add("topk_weights", "F32", [3, 3], new float[9])));
        Assert.Contains("[2, 4]", Sentence(Hidden3().Add("topk_ids", "I32", [2, TopK], new int[8]).Add("topk_weights", "F32", [2, TopK], new float[8])));
        Assert.Contains("F32", Sentence(Hidden3().Add("topk_ids", "F32", [3, TopK], weights).Add("topk_weights", "F32", [3, TopK], weights)));
        ids[6] = Experts;
        Assert.Contains("16", Sentence(Hidden3().Add("topk_ids", "I32", [3, TopK], ids).Add("topk_weights", "F32", [3, TopK], weights)));
    }

    [Fact]
    public void AnOutputThatCannotBeWrittenLeavesNothingBehind()
    {
        string y = Path.Combine(_folder["missing"], "y.safetensors");
        Assert.Contains("missing", ToolRun.Of("run", Sample, "--layer", "0", "--output", y).Sentence());
        Assert.Contains(_folder.Root, ToolRun.Of("run", Sample, "--layer", "0", "--output", _folder.Root).Sentence());
        Assert.Empty(Directory.GetFileSystemEntries(_folder.Root));
    }

    /// <summary>The shard that is being read, say.</summary>
    [Fact]
    public void AnOutputAmongTheFilesOfTheCheckpointIsRefused()
    {
        string shard = Path.Combine(Sample, "model-00001-of-00002.safetensors");
        long bytes = new FileInfo(shard).Length;
        string sentence = ToolRun.Of("run", Sample, "--layer", "0", "--output", shard).Sentence();
        Assert.Contains($"--output is '{shard}', which lies inside the checkpoint", sentence);
        Assert.Equal(bytes, new FileInfo(shard).Length);
    }

    [Fact]
    public void AFailedRunKeepsTheOutputOfAnEarlierOne()
    {
        string y = _folder["y.safetensors"];
        File.WriteAllText(y, "earlier");
        ToolRun.Of("run", Sample, "--layer", "0", "--input", _folder["nowhere.safetensors"], "--output", y).Sentence();
        Assert.Equal("earlier", File.ReadAllText(y));
    }

    [Theory]
    [InlineData("no-such-folder", "0", "no-such-folder")]
    [InlineData(null, "2", "2")]
    [InlineData(null, "999", "999")]
    public void AMissingModelOrLayerIsNamed(string? model, string layer, string named) =>
        Assert.Contains(named, ToolRun.Of("run", model ?? Sample, "--layer", layer).Sentence());
}
