using ScottPlot;

namespace MoeSharp.Cli;

/// <summary>Time over tokens, and the roofline, both logarithmic.</summary>
internal static class BenchPicture
{
    public static void Save(string path, BenchLayer layer, IReadOnlyList<BenchCase> cases, Ceilings ceilings)
    {
        BenchCase[] ordered = [.. cases.OrderBy(row => row.Tokens).DistinctBy(row => row.Tokens)];
        Picture.Save(path, 720, Times(layer, ordered, ceilings), Roofline(layer, ordered, ceilings));
    }

    private static Plot Times(BenchLayer layer, BenchCase[] cases, Ceilings ceilings)
    {
        Plot plot = Picture.Diagram($"{layer.Name}: time of a call", "tokens", "time (ms)");
        double[] tokens = [.. cases.Select(row => (double)row.Tokens)];
        double[] measured = [.. cases.Select(row => row.MedianMilliseconds)];
        double[] byBytes = [.. cases.Select(row => row.Bytes / ceilings.ReadGBPerS / 1e6)], byFlops = [.. cases.Select(row => row.Flops / ceilings.PeakGFlopPerS() / 1e6)];
        Line(plot, tokens, measured, $"measured, {layer.Experts.Backend.Name}", LineKind.Solid, MarkerShape.FilledCircle);
        Line(plot, tokens, byBytes, $"bytes at {Units.Number(ceilings.ReadGBPerS)} GB/s", LineKind.Dashed, MarkerShape.None);
        Line(plot, tokens, byFlops, $"operations at {Units.Number(ceilings.PeakGFlopPerS())} GFLOP/s", LineKind.Dotted, MarkerShape.None);
        LogAxis.Set(plot.Axes.Bottom, tokens[0], tokens[^1]);
        plot.Axes.Bottom.SetTicks([.. tokens.Select(Math.Log10)], [.. cases.Select(row => Units.Count(row.Tokens))]);
        double[] all = [.. measured, .. byBytes, .. byFlops];
        LogAxis.Set(plot.Axes.Left, all.Min(), all.Max() * Math.Pow(all.Max() / all.Min(), 0.35)); // room for the legend
        plot.ShowLegend(Alignment.UpperLeft);
        return plot;
    }

    private static Plot Roofline(BenchLayer layer, BenchCase[] cases, Ceilings ceilings)
    {
        Plot plot = Picture.Diagram($"Roofline, {Names.Of(layer.Shape.Format)} weights, {Names.Of(layer.Shape.Activations)} activations", "operations per byte (FLOP/B)", "rate (GFLOP/s)");
        double[] intensity = [.. cases.Select(row => (double)row.Flops / row.Bytes)], rate = [.. cases.Select(row => row.GigaflopPerSecond)];
        double peak = ceilings.PeakGFlopPerS(), ridge = peak / ceilings.ReadGBPerS;
        double least = Math.Min(intensity.Min(), ridge) / 2, most = Math.Max(intensity.Max(), ridge) * 2;
        Line(plot, [least, ridge, most], [least * ceilings.ReadGBPerS, peak, peak],
            $"ceiling: {Units.Number(ceilings.ReadGBPerS)} GB/s, {Units.Number(peak)} GFLOP/s", LineKind.Solid, MarkerShape.None);
        if (ceilings.FmaGFlopPerS < 0.9 * peak && ceilings.FmaGFlopPerS > least * ceilings.ReadGBPerS)
            Line(plot, [ceilings.FmaGFlopPerS / ceilings.ReadGBPerS, most], [ceilings.FmaGFlopPerS, ceilings.FmaGFlopPerS],
                $"FP32 multiply-add: {Units.Number(ceilings.FmaGFlopPerS)} GFLOP/s", LineKind.Dotted, MarkerShape.None);
        Line(plot, intensity, rate, "measured, by number of tokens", LineKind.Dashed, MarkerShape.FilledCircle);
        for (int i = 0; i < cases.Length; i++)
        {
            var words = plot.Add.Text(Units.Count(cases[i].Tokens), Math.Log10(intensity[i]), Math.Log10(rate[i]));
            words.LabelFontSize = 13;
            words.LabelAlignment = Alignment.UpperLeft;
            words.OffsetX = 7;
            words.OffsetY = 5;
        }
        LogAxis.Set(plot.Axes.Bottom, least, most);
        LogAxis.Set(plot.Axes.Left, Math.Min(rate.Min(), least * ceilings.ReadGBPerS), Math.Max(rate.Max(), peak));
        plot.ShowLegend(Alignment.LowerRight);
        return plot;
    }

    private static void Line(Plot plot, double[] x, double[] y, string label, LineKind kind, MarkerShape marker)
    {
        var line = plot.Add.Scatter(Array.ConvertAll(x, Math.Log10), Array.ConvertAll(y, Math.Log10), Colors.Black);
        line.LegendText = label;
        Picture.Style(line, kind);
        line.MarkerShape = marker;
        line.MarkerSize = 9;
    }
}
