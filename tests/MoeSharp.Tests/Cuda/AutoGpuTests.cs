using System.Text.Json;

namespace MoeSharp.Tests;

/// <summary>What --backend auto, which is the default, takes on machines with a GPU.</summary>
[Collection(nameof(Emulator))]
public sealed class EmulatedAutoTests : IDisposable
{
    private static readonly string s_model = Repository.PathOf("samples/tiny-qwen3-moe-fp8");

    public EmulatedAutoTests() => Emulator.Start();

    public void Dispose() => Emulator.Set("reset", 1);

    [Theory]
    [InlineData("run", "--layer", "0", "--tokens", "2")]
    [InlineData("verify", "--layer", "0", "--tokens", "2", "--rows", "1")]
    public void ALayerThatFitsGoesToTheGpu(params string[] verb)
    {
        JsonElement json = ToolRun.Of([verb[0], s_model, .. verb[1..], "--json"]).Json();
        Assert.Equal("cuda", json.GetProperty("backend").GetString());
        Assert.Matches("^Emulated Hopper 0, GPU 0: the layer takes .* of its .* that are free$", json.GetProperty("chosen").GetString());
    }

    [Fact]
    public void BenchTakesTheGpuToo()
    {
        JsonElement json = ToolRun.Of("bench", "--shape", "4,2,128,128", "--tokens", "1", "--json").Json();
        Assert.Equal("cuda", json.GetProperty("results")[0].GetProperty("backend").GetString());
        Assert.Contains("Emulated Hopper 0", json.GetProperty("chosen").GetString());
    }

    /// <summary>What it does there: tiles, buffers, launches and what they should take.</summary>
    [Theory]
    [InlineData("block128", "fp8", 128, 3, 1)] // 20, 40, 60 and 150 rows, the last in one tile of more than 128
    [InlineData("mxfp8", "bf16", 64, 3, 2)]
    public void ExplainTakesTheGpuToo(string format, string activations, int few, int fewTiles, int moreTiles)
    {
        ExpertsShape shape = Shape(format, activations);
        var tiles = Cli.GpuTiles.Of(shape, new Cli.ExpertLoad([0, 20, 40, 60, 150], 0));
        Assert.Equal((few, fewTiles, moreTiles), (tiles.FewRows, tiles.Few, tiles.Many));

        string[] arguments = ["explain", "--shape", "4,2,256,128", "--tokens", "9", "--format", format, "--activations", activations];
        JsonElement json = ToolRun.Of([.. arguments, "--json"]).Json();
        Assert.Equal("cuda", json.GetProperty("backend").GetString());
        Assert.Contains("Emulated Hopper 0", json.GetProperty("chosen").GetString());
        Assert.Equal(json.GetProperty("routing").GetProperty("active_experts").GetInt32(), json.GetProperty("tile").GetProperty("tiles_of_few_rows").GetInt32());
        Assert.Contains(json.GetProperty("workspace").GetProperty("rows").EnumerateArray(), row => row.GetProperty("name").GetString() == "intermediate");
        JsonElement[] stages = [.. json.GetProperty("stages").EnumerateArray()];
        Assert.Equal(["quantize+permute", "gate_up+activate", "down", "combine"], stages.Select(stage => stage.GetProperty("stage").GetString()));
        Assert.Equal(6L * 18 * 256 * 128, stages.Sum(stage => stage.GetProperty("flops").GetInt64()));
        Assert.All(stages, stage => Assert.True(stage.GetProperty("predicted_ms").GetDouble() > 0 && stage.GetProperty("measured_ms").GetDouble() > 0, stage.ToString()));

        string words = ToolRun.Of(arguments).Output;
        foreach (string word in (string[])["cut evenly", "few rows", "GateUp to Down", "Ceilings of this GPU", activations == "fp8" ? "FP8 products" : "BF16 products", "times the prediction"]) Assert.Contains(word, words);
    }

    private static ExpertsShape Shape(string format, string activations)
    {
        using ExpertWeights sizes = Cli.SyntheticWeights.OnlySizes(new("test", 5, 1, 256, 128), Cli.Inputs.WeightFormat(format));
        return ExpertsShape.From(new() { TopK = 1, Activations = Cli.Inputs.ActivationFormat(activations) }, sizes);
    }

    [Fact]
    public void CompareTakesTheGpuForSidesThatNameNothing()
    {
        JsonElement json = ToolRun.Of("compare", s_model, "--layer", "0", "--tokens", "2", "--json").Json();
        Assert.Equal(("cuda", "reference"), (json.GetProperty("a").GetProperty("backend").GetString(), json.GetProperty("b").GetProperty("backend").GetString()));
        Assert.Contains("Emulated Hopper 0", json.GetProperty("a").GetProperty("chosen").GetString());
        Assert.Equal(JsonValueKind.Null, json.GetProperty("b").GetProperty("chosen").ValueKind);
    }

    [Theory]
    [InlineData("memory_bytes", 1 << 20, "no GPU: The layer takes .* but Emulated Hopper 0 \\(GPU 0\\) has .* free\\.")]
    [InlineData("capability", 80, "no GPU: GPU 0 \\(Emulated Hopper 0\\) has compute capability 8\\.0; the kernels need 9\\.0 \\(Hopper\\)\\.")]
    public void WhatDoesNotFitStaysOnTheCpuAndSaysWhy(string member, long value, string why)
    {
        Emulator.Set(member, value);
        JsonElement json = ToolRun.Of("run", s_model, "--layer", "0", "--tokens", "2", "--json").Json();
        Assert.Equal("cpu", json.GetProperty("backend").GetString());
        Assert.Matches(why, json.GetProperty("chosen").GetString());
    }

    [Fact]
    public void WhatWasAskedForByNameNeedsNoReason()
    {
        foreach (string[] asked in (string[][])[["--backend", "cpu"], ["--backend", "cuda"], ["--threads", "1"]])
            Assert.Equal(JsonValueKind.Null, ToolRun.Of(["run", s_model, "--layer", "0", "--tokens", "1", "--json", .. asked]).Json().GetProperty("chosen").ValueKind);
    }

    [Fact]
    public void InfoShowsEveryGpu()
    {
        Emulator.Set("gpus", 2);
        JsonElement[] gpus = [.. ToolRun.Of("info", "--json").Json().GetProperty("gpus").EnumerateArray()];
        Assert.Equal(["Emulated Hopper 0", "Emulated Hopper 1"], gpus.Select(gpu => gpu.GetProperty("name").GetString()));
        Assert.All(gpus, gpu => Assert.Equal(("9.0", 8L << 30, "CUDA 12.4", "12.4"), (gpu.GetProperty("compute_capability").GetString(),
            gpu.GetProperty("memory_bytes").GetInt64(), gpu.GetProperty("driver").GetString(), gpu.GetProperty("kernels").GetString())));
    }
}

public class AutoGpuTests
{
    [Fact]
    public void WithoutAGpuTheCpuRunsAndAutoSaysWhy()
    {
        using var backend = new CudaBackend();
        if (backend.SupportsDevice().IsSupported) Assert.Skip("There is a GPU here.");
        JsonElement json = ToolRun.Of("run", Repository.PathOf("samples/tiny-qwen3-moe-fp8"), "--layer", "0", "--tokens", "2", "--json").Json();
        Assert.Equal("cpu", json.GetProperty("backend").GetString());
        Assert.Equal($"no GPU: {backend.SupportsDevice().Reason}", json.GetProperty("chosen").GetString());
    }
}
