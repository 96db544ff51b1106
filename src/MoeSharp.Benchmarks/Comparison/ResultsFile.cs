using System.Runtime.InteropServices;
using System.Text.Json;
using MoeSharp.Cli;

namespace MoeSharp.Benchmarks;

/// <summary>The results of a machine as files of one name: numbers (json), tables (md) and a plot per shape (svg).</summary>
internal static class ResultsFile
{
    /// <summary>Adds a run to what is there, replacing that of the same shape, and writes all files anew.</summary>
    /// <param name="path">Without extension.</param>
    /// <param name="run">What was measured on this machine.</param>
    public static void Add(string path, ComparisonRun run)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        string json = path + ".json";
        MachineResults? earlier = File.Exists(json) ? JsonSerializer.Deserialize(File.ReadAllText(json), ResultsJson.Default.MachineResults) : null;
        var machine = new MachineResults(Machine.ProcessorName(), Environment.ProcessorCount, RuntimeInformation.OSDescription, RuntimeInformation.FrameworkDescription, []);
        MachineResults results = (machine with { Runs = earlier?.Runs ?? [] }).With(run);
        File.WriteAllText(json, JsonSerializer.Serialize(results, ResultsJson.Default.MachineResults) + "\n");
        File.WriteAllText(path + ".md", Markdown(results, Path.GetFileName(path)));
        foreach (ComparisonRun each in results.Runs) ComparisonPlot.Save(each, $"{path}-{each.Shape.Replace(',', '-')}.svg");
    }

    private static string Markdown(MachineResults results, string name)
    {
        var text = new StringWriter { NewLine = "\n" };
        text.WriteLine($"# {results.Processor}, {Units.Plural(results.Processors, "processor")}");
        text.WriteLine($"Written by `MoeSharp.Benchmarks` on {results.Runtime}, {results.Os}; all numbers are in [{name}.json]({name}.json).");
        text.WriteLine("Each side ran its calls in turn with the other's, round by round. ms and the ratio (peer's time over ours) are medians of the rounds,");
        text.WriteLine("with the lowest and highest round in brackets; rates count each side's own bytes.");
        foreach (ComparisonRun run in results.Runs)
        {
            text.WriteLine();
            text.WriteLine($"## {run.Shape} beside {run.Peer} {run.PeerFormat}");
            text.WriteLine($"{run.Sizes}; {Units.Plural(run.Threads, "thread")} each, {Units.Plural(run.Rounds, "round")}.");
            text.WriteLine($"Ours: {run.Kernel}.");
            text.WriteLine($"Error against BF16 activations: ours {Units.Error(run.OurError)}, peer {Units.Error(run.PeerError)}.");
            text.WriteLine($"Ceilings of the same run: {Ceilings(run)}.");
            text.WriteLine();
            text.WriteLine("| T | ms | GB/s (share) | GFLOP/s (share) | peer ms | peer GB/s | peer GFLOP/s | ratio |");
            text.WriteLine("|---|---|---|---|---|---|---|---|");
            foreach (ContestResult row in run.Results) text.WriteLine($"| {string.Join(" | ", Cells(run, row))} |");
            text.WriteLine();
            text.WriteLine($"![GFLOP/s over tokens]({name}-{run.Shape.Replace(',', '-')}.svg)");
        }
        return text.ToString();
    }

    /// <summary>One row, as shown in a table.</summary>
    public static string[] Cells(ComparisonRun run, ContestResult row)
    {
        double bandwidth = row.OurBytes / row.OurMilliseconds / 1e6, rate = row.Flops / row.OurMilliseconds / 1e6;
        return
        [
            Units.Count(row.Tokens), Units.Number(row.OurMilliseconds),
            $"{Units.Number(bandwidth)} ({Units.Percent(bandwidth / run.ReadGBPerS)})", $"{Units.Number(rate)} ({Units.Percent(rate / run.PeakGFlopPerS)})",
            Units.Number(row.PeerMilliseconds), Units.Number(row.PeerBytes / row.PeerMilliseconds / 1e6), Units.Number(row.Flops / row.PeerMilliseconds / 1e6),
            $"{Units.Number(row.Ratio)} ({Units.Number(row.Ratios.Min())}–{Units.Number(row.Ratios.Max())})",
        ];
    }

    /// <summary>What the machine could do at best, in words.</summary>
    public static string Ceilings(ComparisonRun run) =>
        $"read {Units.Number(run.ReadGBPerS)} GB/s, FP32 FMA {Units.Number(run.FmaGFlopPerS)} GFLOP/s"
        + (run.Bf16DotGFlopPerS is { } dot ? $", BF16 dot {Units.Number(dot)} GFLOP/s" : "")
        + (run.AmxGFlopPerS is { } tiles ? $", AMX {Units.Number(tiles)} GFLOP/s" : "");
}
