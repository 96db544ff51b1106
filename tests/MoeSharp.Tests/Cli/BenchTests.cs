using System.Text.Json;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

public class BenchTests
{
    private const string Shape = "8,2,128,64";

    [Fact]
    public void JsonHasTheMembersThatOthersRelyOn()
    {
        JsonElement report = ToolRun.Of("bench", "--shape", Shape, "--tokens", "1,3", "--format", "mxfp8", "--routing", "zipf", "--json").Json();
        Assert.Equal(["machine", "ceilings", "chosen", "results"], report.EnumerateObject().Select(member => member.Name));
        JsonElement ceilings = report.GetProperty("ceilings");
        Assert.Equal(["read_gb_per_s", "fma_gflop_per_s", "bf16_dot_gflop_per_s", "amx_gflop_per_s"], ceilings.EnumerateObject().Select(member => member.Name));
        Assert.True(ceilings.GetProperty("read_gb_per_s").GetDouble() > 0);
        Assert.True(ceilings.GetProperty("fma_gflop_per_s").GetDouble() > 0);
        JsonElement[] results = [.. report.GetProperty("results").EnumerateArray()];
        Assert.Equal([1, 3], results.Select(row => row.GetProperty("tokens").GetInt32()));
        foreach (JsonElement row in results)
        {
            Assert.Equal(["shape", "tokens", "format", "activations", "backend", "kernel", "median_ms", "bytes", "flops", "gb_per_s", "gflop_per_s"],
                row.EnumerateObject().Select(member => member.Name));
            Assert.Equal(Shape, row.GetProperty("shape").GetString());
            Assert.Equal("mxfp8", row.GetProperty("format").GetString());
            int tokens = row.GetProperty("tokens").GetInt32();
            Assert.Equal(6L * tokens * 2 * 128 * 64, row.GetProperty("flops").GetInt64());
            double ms = row.GetProperty("median_ms").GetDouble();
            Assert.Equal(row.GetProperty("flops").GetInt64() / ms / 1e6, row.GetProperty("gflop_per_s").GetDouble(), 6);
            Assert.Equal(row.GetProperty("bytes").GetInt64() / ms / 1e6, row.GetProperty("gb_per_s").GetDouble(), 6);
        }
        // One token touches two experts: gate, up and down with a scale per 32 values, and BF16 hidden states in and out.
        Assert.Equal(2 * 3 * (128 * 64 + 128 * 64 / 32) + 2 * 2 * 128, results[0].GetProperty("bytes").GetInt64());
    }

    [Fact]
    public void TheTableShowsARowPerTokenCountAndNoEscapeCodes()
    {
        ToolRun run = ToolRun.Of("bench", "--shape", Shape, "--tokens", "1,16", "--activations", "bf16");
        Assert.Equal(0, run.ExitCode);
        Assert.DoesNotContain('\u001b', run.Output + run.Error);
        Assert.Contains($"{Shape}: 8 experts, top-2, hidden 128, intermediate 64, block128 weights, bf16 activations", run.Output);
        Assert.Single(run.Output.Split('\n'), line => line.TrimStart().StartsWith("16 "));
        Assert.Contains("Ceilings, measured between the rounds", run.Output);
    }

    [Fact]
    public void WithoutTokensThereAreFourRows()
    {
        JsonElement report = ToolRun.Of("bench", "--shape", "4,1,128,128", "--json").Json();
        Assert.Equal([1, 8, 64, 512], report.GetProperty("results").EnumerateArray().Select(row => row.GetProperty("tokens").GetInt32()));
    }

    [Fact]
    public void OnlyLocalSlotsCountWhereExpertsLieElsewhere()
    {
        BenchShape shape = BenchShape.Parse("8,2,128,64") with { LocalExperts = 3 };
        using BenchLayer layer = BenchLayer.Random(shape, WeightFormat.Block128, null, null, TestContext.Current.CancellationToken);
        const int tokens = 40;
        var row = new BenchCase(layer, tokens, RoutingKind.Uniform, seed: 7);
        using var workspace = new Workspace(layer.Experts.WorkspaceBytes(tokens));
        row.Run(workspace, record: false);
        row.Run(workspace, record: true);
        var ids = new int[tokens * 2];
        SyntheticRouting.Fill(RoutingKind.Uniform, 7, 8, 2, ids, new float[ids.Length]);
        Assert.Equal(6L * 128 * 64 * ids.Count(id => id < 3), row.Flops);
        Assert.Equal(1, row.Repetitions);
    }

    [Fact]
    public void EveryRepetitionRoutesAnew()
    {
        using BenchLayer layer = BenchLayer.Random(BenchShape.Parse("64,2,128,64"), WeightFormat.Block128, null, null, TestContext.Current.CancellationToken);
        var row = new BenchCase(layer, tokens: 1, RoutingKind.Uniform, seed: null);
        using var workspace = new Workspace(layer.Experts.WorkspaceBytes(1));
        var seen = new HashSet<string>();
        for (int i = 0; i < 5; i++)
        {
            row.Run(workspace, record: true);
            seen.Add(string.Join(' ', row.Ids.ToArray()));
        }
        Assert.Equal(5, seen.Count);
    }

    [Fact]
    public void CancellingGivesItsOwnExitCode()
    {
        var output = new StringWriter();
        var error = new StringWriter();
        int code = Tool.Run(["bench", "--shape", Shape], output, error, new CancellationToken(canceled: true));
        Assert.Equal(130, code);
        Assert.Equal("", output.ToString());
        Assert.EndsWith("Cancelled.", error.ToString().TrimEnd());
    }
}
