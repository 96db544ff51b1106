using ScottPlot;

namespace MoeSharp.Benchmarks;

/// <summary>GFLOP/s over tokens, both axes logarithmic. Markers and line patterns tell the sides apart in black and white.</summary>
internal static class ComparisonPlot
{
    public static void Save(ComparisonRun run, string file)
    {
        using var plot = new Plot();
        Add(plot, run, "MoeSharp, block128", r => r.OurMilliseconds, MarkerShape.FilledCircle, LinePattern.Solid, Colors.Black);
        Add(plot, run, $"{run.Peer}, {run.PeerFormat}", r => r.PeerMilliseconds, MarkerShape.OpenSquare, LinePattern.Dashed, Colors.DimGray);
        AddCeiling(plot, run.FmaGFlopPerS, "FP32 FMA peak", LinePattern.Dotted);
        if (run.Bf16DotGFlopPerS is { } dot) AddCeiling(plot, dot, "BF16 dot peak", LinePattern.DenselyDashed);
        if (run.AmxGFlopPerS is { } tiles) AddCeiling(plot, tiles, "AMX peak", LinePattern.Solid);
        plot.Title($"{run.Shape}, {run.Threads} threads");
        plot.XLabel("tokens");
        plot.YLabel("GFLOP/s");
        int[] tokens = [.. run.Results.Select(r => r.Tokens)];
        plot.Axes.Bottom.SetTicks([.. tokens.Select(t => Math.Log2(t))], [.. tokens.Select(t => t.ToString())]);
        double[] rates = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];
        plot.Axes.Left.SetTicks([.. rates.Select(Math.Log10)], [.. rates.Select(r => r.ToString())]);
        plot.ShowLegend(Alignment.LowerRight);
        plot.Axes.AutoScale();
        plot.SaveSvg(file, 720, 440);
    }

    private static void Add(Plot plot, ComparisonRun run, string label, Func<ContestResult, double> ms, MarkerShape marker, LinePattern pattern, Color color)
    {
        var line = plot.Add.Scatter(
            [.. run.Results.Select(r => Math.Log2(r.Tokens))], run.Results.Select(r => Math.Log10(r.Flops / ms(r) / 1e6)).ToArray(), color);
        line.LegendText = label;
        line.LinePattern = pattern;
        line.LineWidth = 2;
        line.MarkerShape = marker;
        line.MarkerSize = 9;
        line.MarkerLineWidth = 2;
    }

    private static void AddCeiling(Plot plot, double rate, string label, LinePattern pattern)
    {
        var line = plot.Add.HorizontalLine(Math.Log10(rate), 1.5f, Colors.Black, pattern);
        line.LegendText = label;
    }
}
