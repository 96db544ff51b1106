using ScottPlot;

namespace MoeSharp.Cli;

/// <summary>Relative error of every layer's experts as shades of grey: the darker, the larger.</summary>
internal static class ErrorPicture
{
    public static void Save(string path, WeightFormat format, IReadOnlyList<QuantizationError> errors)
    {
        QuantizationError[] experts = [.. errors.Where(error => error.Part >= 0)];
        int[] layers = [.. experts.Select(error => error.Layer).Distinct().Order()];
        int count = experts.Max(error => error.Part) + 1;
        var cells = new double[layers.Length, count];
        foreach (QuantizationError error in experts) cells[Array.IndexOf(layers, error.Layer), error.Part] = 100 * error.Relative;
        QuantizationError worst = experts.MaxBy(error => error.Relative)!;

        Plot plot = Picture.Diagram($"Error of {Names.Of(format)} weights; worst {Units.Number(100 * worst.Relative)} %: layer {worst.Layer}, expert {worst.Part} (circle)", "expert", "layer");
        var map = plot.Add.Heatmap(cells);
        map.FlipVertically = true; // layer 0 at the bottom
        map.Colormap = new LightToDark();
        (double least, double most) = (experts.Min(error => 100 * error.Relative), 100 * worst.Relative);
        if (most - least < 1e-6) (least, most) = (least - 1e-3, most + 1e-3); // one shade needs a range all the same
        map.ManualRange = new(least, most);
        var scale = plot.Add.ColorBar(map);
        scale.Label = "relative error (%)";
        scale.LabelStyle.FontSize = 15;
        var circle = plot.Add.Marker(worst.Part, Array.IndexOf(layers, worst.Layer), MarkerShape.OpenCircle, 16, Colors.White);
        circle.MarkerStyle.LineWidth = 3;
        plot.Axes.SetLimits(-0.5, count - 0.5, -0.5, layers.Length - 0.5);
        LoadPicture.Ticks(plot.Axes.Bottom, count);
        int step = (layers.Length + 15) / 16;
        int[] shown = [.. Enumerable.Range(0, layers.Length).Where(i => i % step == 0)];
        plot.Axes.Left.SetTicks([.. shown.Select(i => (double)i)], [.. shown.Select(i => $"{layers[i]}")]);
        Picture.Save(path, 960, plot);
    }

    /// <summary>From nearly white to black, so that the least error still stands out from paper.</summary>
    private sealed class LightToDark : IColormap
    {
        public string Name => "light to dark";

        public Color GetColor(double position)
        {
            byte shade = (byte)Math.Round(235 * (1 - Math.Clamp(position, 0, 1)));
            return new(shade, shade, shade);
        }
    }
}
