using MoeSharp.Cli;
using ScottPlot;

namespace MoeSharp.Benchmarks;

/// <summary>GFLOP/s over tokens, both axes logarithmic. Markers and line patterns tell the sides apart in black and white.</summary>
internal static class ComparisonPlot
{
    private static readonly double[] s_rates = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];

    public static void Save(ComparisonRun run, string file)
    {
        Plot plot = Picture.Diagram($"{run.Shape}, {run.Threads} threads", "tokens", "GFLOP/s");
        double[] tokens = [.. run.Results.Select(r => Math.Log2(r.Tokens))];
        Add(plot, tokens, run.Results.Select(r => r.Flops / r.OurMilliseconds / 1e6), "MoeSharp, block128", LineKind.Solid, MarkerShape.FilledCircle);
        Add(plot, tokens, run.Results.Select(r => r.Flops / r.PeerMilliseconds / 1e6), $"{run.Peer}, {run.PeerFormat}", LineKind.Dashed, MarkerShape.OpenSquare);
        double[] ends = [tokens[0], tokens[^1]];
        Add(plot, ends, [run.FmaGFlopPerS, run.FmaGFlopPerS], "FP32 FMA peak", LineKind.Dotted, MarkerShape.None);
        if (run.Bf16DotGFlopPerS is { } dot) Add(plot, ends, [dot, dot], "BF16 dot peak", LineKind.DashDotted, MarkerShape.None);
        if (run.AmxGFlopPerS is { } tiles) Add(plot, ends, [tiles, tiles], "AMX peak", LineKind.Solid, MarkerShape.None);
        plot.Axes.Bottom.SetTicks(tokens, [.. run.Results.Select(r => Units.Count(r.Tokens))]);
        plot.Axes.Left.SetTicks([.. s_rates.Select(Math.Log10)], [.. s_rates.Select(r => $"{r}")]);
        plot.ShowLegend(Alignment.LowerRight);
        plot.Axes.AutoScale();
        Picture.Save(file, 720, plot);
    }

    private static void Add(Plot plot, double[] x, IEnumerable<double> rates, string label, LineKind kind, MarkerShape marker)
    {
        var line = plot.Add.Scatter(x, rates.Select(Math.Log10).ToArray(), Colors.Black);
        line.LegendText = label;
        Picture.Style(line, kind);
        line.MarkerShape = marker;
        line.MarkerSize = 9;
        line.MarkerLineWidth = 2;
    }
}
