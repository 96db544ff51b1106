using ScottPlot;

namespace MoeSharp.Cli;

/// <summary>A bar per expert: how many rows it gets.</summary>
internal static class LoadPicture
{
    public static void Save(string path, string name, ExpertLoad load)
    {
        Plot plot = Picture.Diagram($"{name}: {Units.Count(load.Total)} rows over {load.Active} of {load.Rows.Length} experts", "expert", "rows (tokens routed to the expert)");
        var bars = plot.Add.Bars(load.Rows.Select((rows, expert) => new Bar
        {
            Position = expert,
            Value = rows,
            Size = 0.8,
            FillColor = Colors.LightGray,
            LineColor = Colors.Black,
            LineWidth = load.Rows.Length > 160 ? 0 : 1,
        }).ToArray());
        if (load.Rows.Length > 160) foreach (Bar bar in bars.Bars) bar.FillColor = Colors.DimGray; // outlines would be all there is
        var mean = plot.Add.HorizontalLine(load.Mean);
        Picture.Style(mean, LineKind.Dashed);
        mean.LegendText = $"mean {Units.Number(load.Mean)}, busiest {Units.Count(load.Most)} (expert {load.Busiest})";
        plot.Axes.SetLimits(-1, load.Rows.Length, 0, Math.Max(1, 1.15 * load.Most));
        Ticks(plot.Axes.Bottom, load.Rows.Length);
        Ticks(plot.Axes.Left, (int)Math.Ceiling(1.15 * load.Most));
        plot.ShowLegend(Alignment.UpperRight);
        Picture.Save(path, 960, plot);
    }

    /// <summary>Whole numbers only, at most a dozen or so.</summary>
    public static void Ticks(IAxis axis, int count)
    {
        int step = 1;
        for (int i = 0; count / step > 16; i++) step = (int)Math.Pow(10, i / 3) * (i % 3 == 0 ? 1 : i % 3 == 1 ? 2 : 5);
        int[] at = [.. Enumerable.Range(0, count / step + 1).Select(i => i * step).Where(i => i < Math.Max(count, 1))];
        axis.SetTicks([.. at.Select(i => (double)i)], [.. at.Select(i => Units.Count(i))]);
    }
}
