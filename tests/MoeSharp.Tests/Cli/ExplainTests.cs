using System.Text.Json;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

public class ExplainTests
{
    private static string Model => Repository.PathOf("samples/tiny-qwen3-moe-fp8");

    [Fact]
    public void JsonAddsUp()
    {
        JsonElement report = ToolRun.Of("explain", Model, "--layer", "1", "--tokens", "20", "--json").Json();
        JsonElement routing = report.GetProperty("routing");
        int[] rows = [.. routing.GetProperty("rows_per_expert").EnumerateArray().Select(r => r.GetInt32())];
        Assert.Equal((16, 20 * 4), (rows.Length, rows.Sum()));
        Assert.Equal(rows.Max(), routing.GetProperty("most").GetInt32());
        JsonElement workspace = report.GetProperty("workspace");
        long bytes = workspace.GetProperty("bytes").GetInt64();
        foreach (JsonElement row in workspace.GetProperty("rows").EnumerateArray())
            Assert.True(row.GetProperty("offset").GetInt64() + row.GetProperty("bytes").GetInt64() <= bytes, row.ToString());
        JsonElement[] stages = [.. report.GetProperty("stages").EnumerateArray()];
        Assert.Equal(StageTimes.Names, stages.Select(stage => stage.GetProperty("stage").GetString()));
        Assert.Equal(6L * 80 * 256 * 128, stages.Sum(stage => stage.GetProperty("flops").GetInt64()));
        Assert.Equal(report.GetProperty("predicted_ms").GetDouble(), stages.Sum(stage => stage.GetProperty("predicted_ms").GetDouble()), 1e-12);
        Assert.All(stages, stage => Assert.True(stage.GetProperty("measured_ms").GetDouble() >= 0));
        Assert.True(report.GetProperty("measured_ms").GetDouble() > 0);
    }

    [Fact]
    public void WordsSayWhatWasChosenAndWhy()
    {
        ToolRun run = ToolRun.Of("explain", "--shape", "8,2,128,64", "--tokens", "33", "--routing", "zipf");
        Assert.Equal(0, run.ExitCode);
        foreach (string word in (string[])["Zipf's law", "8 experts", "kernel", "chosen", "32 columns x 128 k", "slot_of_row", "GateUp to Down", "gate_up+activate", "predicted", "measured", "Ceilings on"])
            Assert.Contains(word, run.Output);
        Assert.DoesNotContain('\u001b', run.Output);
        Assert.All(run.Output.Split('\n'), line => Assert.True(line.TrimEnd().Length <= 100, line));
    }

    [Fact]
    public void ABackendWithoutCostModelIsMeasuredOnly()
    {
        JsonElement report = ToolRun.Of("explain", "--shape", "4,2,64,32", "--tokens", "3", "--backend", "reference", "--json").Json();
        Assert.Equal(JsonValueKind.Null, report.GetProperty("predicted_ms").ValueKind);
        Assert.Contains("cpu: ", report.GetProperty("passed_over")[0].GetString());
        Assert.Contains("no cost model of backend reference", ToolRun.Of("explain", "--shape", "4,2,64,32", "--tokens", "3", "--backend", "reference").Output);
    }

    [Fact]
    public void TheModelIsBytesOverBandwidthAndOperationsOverPeakOfEveryExpert()
    {
        using BenchLayer layer = BenchLayer.Random(new BenchShape("test", 4, 2, 256, 128), WeightFormat.Block128, null, null, TestContext.Current.CancellationToken);
        using ExplainCase explained = ExplainCase.FromShape(layer, RoutingKind.Uniform, tokens: 40, seed: 3);
        const double bandwidth = 2, peak = 30; // GB/s, GFLOP/s
        StageCost[] costs = new CostModel(bandwidth, peak).OnCpu(explained);
        double expected = 0;
        for (int e = 0; e < 4; e++)
            expected += Math.Max(layer.Weights.Down[e].Bytes / bandwidth / 1e6, 2.0 * explained.Load.Rows[e] * 256 * 128 / peak / 1e6);
        Assert.Equal(expected + 40 * 256 * 2 / bandwidth / 1e6, costs[3].Predicted, 1e-12);
        Assert.Equal(2 * costs[3].Flops, costs[2].Flops);
        Assert.Equal(6L * 80 * 256 * 128, costs.Sum(cost => cost.Flops));
        Assert.Equal("FLOP", costs[2].Bound);
    }

    [Theory]
    [InlineData("explain", "Give either MODEL or --shape")]
    [InlineData("explain folder --format mxfp8", "--format is for random weights")]
    [InlineData("explain folder --routing zipf", "--routing is for random weights")]
    [InlineData("explain --shape 8,2,64,32 --layer 1", "--layer chooses a layer of MODEL")]
    [InlineData("explain --shape 8,2,64,32 --tokens 0", "--tokens is '0'")]
    public void BadUsageIsOneSentence(string line, string expected) => Assert.Contains(expected, ToolRun.Of(line.Split(' ')).Sentence());

    [Fact]
    public void HistogramsCountEveryExpertOnce()
    {
        foreach (int most in (int[])[0, 1, 5, 12, 13, 29, 100, 1234])
        {
            int[] rows = [.. Enumerable.Range(0, 50).Select(e => e == 7 ? most : e * most / 60)];
            IReadOnlyList<(int Least, int Most, int Experts)> bins = new ExpertLoad(rows, 0).Histogram();
            Assert.True(bins.Count <= 14, $"{bins.Count} bins for {most}");
            Assert.Equal(50, bins.Sum(bin => bin.Experts));
            foreach ((int least, int last, int experts) in bins) Assert.Equal(rows.Count(r => r >= least && r <= last), experts);
        }
    }
}
