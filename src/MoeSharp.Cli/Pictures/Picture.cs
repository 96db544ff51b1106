using System.CommandLine;
using System.Text;
using ScottPlot;
using SkiaSharp;

namespace MoeSharp.Cli;

/// <summary>What tells one line from another.</summary>
internal enum LineKind : byte
{
    Solid,
    Dashed,
    Dotted,
    DashDotted,
}

/// <summary>Diagrams, side by side, in a file. Markers, patterns and shades of grey tell things apart, never colour alone.</summary>
internal static class Picture
{
    private const int Height = 540;
    private static readonly LinePattern s_dashDotted = new([10, 4, 2, 4], 0, "DashDotted");
    private static readonly string[] s_preferredFonts = ["Open Sans", "Segoe UI", "Helvetica", "Arial", "DejaVu Sans", "Liberation Sans", "Noto Sans"];

    /// <summary>--plot.</summary>
    /// <param name="what">What is drawn.</param>
    public static Option<string?> Option(string what) => Inputs.Parsed<string?>("--plot", "FILE", $"Draw {what} into FILE.svg or FILE.png", null, path =>
        IsSvg(path) || path.EndsWith(".png", StringComparison.OrdinalIgnoreCase)
            ? path
            : throw new ArgumentException($"--plot is '{path}'; the name must end in .svg or .png."));

    /// <summary>Finds out before anything is computed whether the picture could be drawn.</summary>
    /// <param name="path">As typed.</param>
    /// <param name="model">Folder of the checkpoint that the verb reads; null: none.</param>
    /// <exception cref="ArgumentException">The file could not be written.</exception>
    /// <exception cref="UnsupportedException">This machine cannot draw.</exception>
    public static void Check(string path, string? model)
    {
        OutputFile.Check("--plot", path, model);
        if (!HasFont())
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
        string[] installed = [.. SKFontManager.Default.FontFamilies];
        if (s_preferredFonts.FirstOrDefault(installed.Contains) is { } font) plot.Font.Set(font);
        return plot;
    }

    /// <summary>A black line. Skia's SVG knows no dashes: there a shade of black that nobody sees says which they will be.</summary>
    public static void Style(IHasLine line, LineKind kind)
    {
        line.LineWidth = 2;
        line.LineColor = new((byte)kind, (byte)kind, (byte)kind);
        line.LinePattern = kind switch { LineKind.Dashed => LinePattern.Dashed, LineKind.Dotted => LinePattern.Dotted, LineKind.DashDotted => s_dashDotted, _ => LinePattern.Solid };
    }

    /// <summary>Writes and disposes the diagrams; the file appears when it is whole.</summary>
    public static void Save(string path, int width, params Plot[] plots) => WholeFile.Write(path, stream =>
    {
        var size = new SKSizeI(width * plots.Length, Height);
        if (IsSvg(path))
        {
            foreach (IHasLine line in plots.SelectMany(plot => plot.GetPlottables().OfType<IHasLine>())) line.LinePattern = LinePattern.Solid;
            using var svg = new MemoryStream();
            using (SKCanvas canvas = SKSvgCanvas.Create(SKRect.Create(size.Width, size.Height), svg)) Draw(canvas, width, plots);
            stream.Write(Encoding.UTF8.GetBytes(Encoding.UTF8.GetString(svg.ToArray())
                .Replace("stroke=\"#010101\" stroke-width=\"2\"", "stroke=\"black\" stroke-dasharray=\"10 6\" stroke-width=\"2\"", StringComparison.Ordinal)
                .Replace("stroke=\"#020202\" stroke-width=\"2\"", "stroke=\"black\" stroke-dasharray=\"2 4\" stroke-width=\"2\"", StringComparison.Ordinal)
                .Replace("stroke=\"#030303\" stroke-width=\"2\"", "stroke=\"black\" stroke-dasharray=\"10 4 2 4\" stroke-width=\"2\"", StringComparison.Ordinal)));
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
        foreach (Plot plot in plots) plot.RenderManager.ClearCanvasBeforeEachRender = false; // each would clear all of it
        foreach (Plot plot in plots) plot.RenderInMemory(width, Height); // a first time finds its layout and draws twice
        for (int i = 0; i < plots.Length; i++) plots[i].Render(canvas, new PixelRect(i * width, (i + 1) * width, Height, 0));
    }

    private static bool IsSvg(string path) => path.EndsWith(".svg", StringComparison.OrdinalIgnoreCase);

    /// <summary>A family alone says little: without any font there is still one, without letters.</summary>
    private static bool HasFont()
    {
        try
        {
            SKFontManager fonts = SKFontManager.Default;
            return fonts.FontFamilies.Any(family => fonts.MatchFamily(family) is { } font && font.ContainsGlyphs("A0"));
        }
        catch (Exception e) when (e is DllNotFoundException or TypeInitializationException)
        {
            throw new UnsupportedException(
                "Pictures need the native libraries libSkiaSharp and libHarfBuzzSharp, which belong beside the executable of moesharp but could not be loaded; put them there, or leave out --plot.");
        }
    }
}
