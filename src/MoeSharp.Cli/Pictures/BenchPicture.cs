using ScottPlot;

namespace MoeSharp.Cli;

/// <summary>A point of both diagrams.</summary>
internal readonly record struct BenchPoint(int Tokens, double Milliseconds, long Bytes, long Flops)
{
    public double GigaflopPerSecond => Flops / Milliseconds / 1e6;
}

/// <summary>What is measured, and what a machine can do.</summary>
/// <param name="Layer">As reports call it.</param>
/// <param name="Backend">Its name.</param>
/// <param name="Formats">Of weights and activations.</param>
/// <param name="ReadGBPerS">Memory.</param>
/// <param name="PeakGFlopPerS">The highest arithmetic rate.</param>
/// <param name="FmaGFlopPerS">A lower one to show beside it, or null.</param>
internal sealed record BenchRoof(string Layer, string Backend, string Formats, double ReadGBPerS, double PeakGFlopPerS, double? FmaGFlopPerS = null);

/// <summary>Time over tokens, and the roofline, both logarithmic.</summary>
internal static class BenchPicture
{
    public static void Save(string path, BenchLayer layer, IReadOnlyList<BenchCase> cases, Ceilings ceilings) =>
        Save(path, new(layer.Name, layer.Experts.Backend.Name, Formats(layer.Shape), ceilings.ReadGBPerS, ceilings.PeakGFlopPerS(), ceilings.FmaGFlopPerS),
            cases.Select(row => new BenchPoint(row.Tokens, row.MedianMilliseconds, row.Bytes, row.Flops)));

    public static void Save(string path, IReadOnlyList<GpuCase> cases, DeviceCeilings ceilings) =>
        Save(path, new(cases[0].Layer, ChosenBackend.Cuda, Formats(cases[0].Shape), ceilings.ReadGBPerS, 1e3 * ceilings.Fp8TFlopPerS),
            cases.Select(row => new BenchPoint(row.Tokens, row.Cold / 1e3, row.Bytes, row.Flops)));

    private static string Formats(ExpertsShape shape) => $"{Names.Of(shape.Format)} weights, {Names.Of(shape.Activations)} activations";

    private static void Save(string path, BenchRoof roof, IEnumerable<BenchPoint> points)
    {
        BenchPoint[] ordered = [.. points.OrderBy(point => point.Tokens).DistinctBy(point => point.Tokens)];
        Picture.Save(path, 720, Times(roof, ordered), Roofline(roof, ordered));
    }

    private static Plot Times(BenchRoof roof, BenchPoint[] cases)
    {
        Plot plot = Picture.Diagram($"{roof.Layer}: time of a call", "tokens", "time (ms)");
        double[] tokens = [.. cases.Select(row => (double)row.Tokens)];
        double[] measured = [.. cases.Select(row => row.Milliseconds)];
        double[] byBytes = [.. cases.Select(row => row.Bytes / roof.ReadGBPerS / 1e6)], byFlops = [.. cases.Select(row => row.Flops / roof.PeakGFlopPerS / 1e6)];
        Line(plot, tokens, measured, $"measured, {roof.Backend}", LineKind.Solid, MarkerShape.FilledCircle);
        Line(plot, tokens, byBytes, $"bytes at {Units.Number(roof.ReadGBPerS)} GB/s", LineKind.Dashed, MarkerShape.None);
        Line(plot, tokens, byFlops, $"operations at {Units.Number(roof.PeakGFlopPerS)} GFLOP/s", LineKind.Dotted, MarkerShape.None);
        LogAxis.Set(plot.Axes.Bottom, tokens[0], tokens[^1]);
        plot.Axes.Bottom.SetTicks([.. tokens.Select(Math.Log10)], [.. cases.Select(row => Units.Count(row.Tokens))]);
        double[] all = [.. measured, .. byBytes, .. byFlops];
        LogAxis.Set(plot.Axes.Left, all.Min(), all.Max() * Math.Pow(all.Max() / all.Min(), 0.35)); // room for the legend
        plot.ShowLegend(Alignment.UpperLeft);
        return plot;
    }

    private static Plot Roofline(BenchRoof roof, BenchPoint[] cases)
    {
        Plot plot = Picture.Diagram($"Roofline, {roof.Formats}", "operations per byte (FLOP/B)", "rate (GFLOP/s)");
        double[] intensity = [.. cases.Select(row => (double)row.Flops / row.Bytes)], rate = [.. cases.Select(row => row.GigaflopPerSecond)];
        double peak = roof.PeakGFlopPerS, ridge = peak / roof.ReadGBPerS;
        double least = Math.Min(intensity.Min(), ridge) / 2, most = Math.Max(intensity.Max(), ridge) * 2;
        Line(plot, [least, ridge, most], [least * roof.ReadGBPerS, peak, peak],
            $"ceiling: {Units.Number(roof.ReadGBPerS)} GB/s, {Units.Number(peak)} GFLOP/s", LineKind.Solid, MarkerShape.None);
        if (roof.FmaGFlopPerS is { } fma && fma < 0.9 * peak && fma > least * roof.ReadGBPerS)
            Line(plot, [fma / roof.ReadGBPerS, most], [fma, fma],
                $"FP32 multiply-add: {Units.Number(fma)} GFLOP/s", LineKind.Dotted, MarkerShape.None);
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
        LogAxis.Set(plot.Axes.Left, Math.Min(rate.Min(), least * roof.ReadGBPerS), Math.Max(rate.Max(), peak));
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
