using System.CommandLine;
using ScottPlot;
using SkiaSharp;

namespace MoeSharp.Cli;

/// <summary>Diagrams, side by side, in a file. Markers, patterns and shades of grey tell things apart, never colour alone.</summary>
internal static class Picture
{
    private const int Height = 540;

    /// <summary>--plot.</summary>
    /// <param name="what">What is drawn.</param>
    public static Option<string?> Option(string what) => Inputs.Parsed<string?>("--plot", "FILE", $"Draw {what} into FILE.svg or FILE.png", null, path =>
        IsSvg(path) || path.EndsWith(".png", StringComparison.OrdinalIgnoreCase)
            ? path
            : throw new ArgumentException($"--plot is '{path}'; the name must end in .svg or .png."));

    /// <summary>Finds out before anything is computed whether the picture could be drawn.</summary>
    /// <exception cref="ArgumentException">The file could not be written.</exception>
    /// <exception cref="UnsupportedException">This machine cannot draw.</exception>
    public static void CheckWritable(string path)
    {
        string full = Path.GetFullPath(path);
        if (Directory.Exists(full)) throw new ArgumentException($"--plot is '{path}', which is a folder; name a file in it.");
        string? folder = Path.GetDirectoryName(full);
        if (!Directory.Exists(folder)) throw new ArgumentException($"--plot is '{path}' but there is no folder '{folder}'; create it first.");
        if (CountFonts() == 0)
            throw new UnsupportedException("This machine has no fonts, so a picture would have no words; install one (DejaVu Sans, say), or leave out --plot.");
    }

    /// <summary>A diagram with axes in the style of all.</summary>
    public static Plot Diagram(string title, string x, string y)
    {
        var plot = new Plot();
        plot.Title(title, size: 17);
        plot.XLabel(x, size: 15);
        plot.YLabel(y, size: 15);
        plot.Axes.Bottom.TickLabelStyle.FontSize = plot.Axes.Left.TickLabelStyle.FontSize = 13;
        plot.Legend.FontSize = 13;
        return plot;
    }

    /// <summary>Writes and disposes the diagrams; the file appears when it is whole.</summary>
    public static void Save(string path, int width, params Plot[] plots) => ConversionFolder.WriteWhole(path, stream =>
    {
        var size = new SKSizeI(width * plots.Length, Height);
        if (IsSvg(path))
        {
            using SKCanvas canvas = SKSvgCanvas.Create(SKRect.Create(size.Width, size.Height), stream);
            Draw(canvas, width, plots);
        }
        else
        {
            using SKSurface surface = SKSurface.Create(new SKImageInfo(size.Width, size.Height, SKColorType.Rgba8888, SKAlphaType.Premul));
            Draw(surface.Canvas, width, plots);
            using SKImage image = surface.Snapshot();
            using SKData data = image.Encode(SKEncodedImageFormat.Png, 100);
            data.SaveTo(stream);
        }
        foreach (Plot plot in plots) plot.Dispose();
    });

    private static void Draw(SKCanvas canvas, int width, Plot[] plots)
    {
        canvas.Clear(SKColors.White);
        for (int i = 0; i < plots.Length; i++) plots[i].Render(canvas, new PixelRect(i * width, (i + 1) * width, Height, 0));
    }

    private static bool IsSvg(string path) => path.EndsWith(".svg", StringComparison.OrdinalIgnoreCase);

    private static int CountFonts()
    {
        try
        {
            return SKFontManager.Default.FontFamilyCount;
        }
        catch (Exception e) when (e is DllNotFoundException or TypeInitializationException)
        {
            throw new UnsupportedException(
                "Pictures need the native libraries libSkiaSharp and libHarfBuzzSharp, which belong beside the executable of moesharp but could not be loaded; put them there, or leave out --plot.");
        }
    }
}
