using System.Xml.Linq;

namespace MoeSharp.Tests;

public sealed class PictureTests : IDisposable
{
    private static readonly byte[] s_png = [0x89, (byte)'P', (byte)'N', (byte)'G'];
    private readonly TemporaryFolder _folder = new();

    private static string Model => Repository.PathOf("samples/tiny-qwen3-moe-fp8");

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void ARunShowsTheLoadOfEveryExpert()
    {
        string svg = Draw("svg", "run", Model, "--layer", "0", "--tokens", "64");
        foreach (string word in (string[])["256 rows over 16 of 16 experts", "rows (tokens routed to the expert)", "mean 16.0"]) Assert.Contains(word, svg);
        Draw("png", "run", Model, "--layer", "0");
    }

    [Fact]
    public void ABenchShowsTimeAndRoofline()
    {
        string svg = Draw("svg", "bench", "--shape", "8,2,128,64", "--tokens", "1,4");
        foreach (string word in (string[])["time (ms)", "tokens", "operations per byte (FLOP/B)", "rate (GFLOP/s)", "measured, cpu", "ceiling: "]) Assert.Contains(word, svg);
    }

    [Fact]
    public void AQuantizationShowsTheErrorOfEveryExpert()
    {
        WideCheckpoint.WriteQwen3(_folder["wide"], "BF16", layers: 3, experts: 4, hidden: 128, intermediate: 128);
        string svg = Draw("svg", "quantize", _folder["wide"], "--format", "mxfp8", "--out", _folder["a"]);
        foreach (string word in (string[])["layer", "expert", "relative error (%)", "Error of mxfp8 weights", "(circle)"]) Assert.Contains(word, svg);
        Draw("png", "quantize", _folder["wide"], "--format", "block128", "--out", _folder["b"]);
    }

    [Theory]
    [InlineData("load.pdf", "--plot is 'load.pdf'; the name must end in .svg or .png.")]
    [InlineData("nowhere/load.png", "there is no folder")]
    public void WhatCannotBeDrawnIsRefusedBeforeAnythingRuns(string path, string expected)
    {
        string sentence = ToolRun.Of("run", Model, "--layer", "0", "--plot", path).Sentence();
        Assert.Contains(expected, sentence);
        Assert.Contains("--plot", sentence);
    }

    [Fact]
    public void APictureAmongTheFilesOfACheckpointIsRefused()
    {
        WideCheckpoint.WriteQwen3(_folder["wide"], "BF16", layers: 1, experts: 2, hidden: 128, intermediate: 128);
        string plot = Path.Combine(_folder["wide"], "errors.svg");
        foreach (string[] verb in (string[][])[["run", _folder["wide"], "--layer", "0"], ["bench", _folder["wide"]], ["quantize", _folder["wide"], "--format", "mxfp8", "--out", _folder["a"]]])
            Assert.Contains("--plot is '", ToolRun.Of([.. verb, "--plot", plot]).Sentence());
        Assert.False(File.Exists(plot));
    }

    /// <summary>The words of an SVG.</summary>
    private string Draw(string extension, params string[] arguments)
    {
        string path = _folder[$"picture.{extension}"];
        ToolRun run = ToolRun.Of([.. arguments, "--plot", path]);
        Assert.SkipWhen(run.Error.Contains("no fonts", StringComparison.Ordinal), "This machine has no fonts.");
        Assert.True(run.ExitCode == 0, run.Error);
        if (extension == "svg" && arguments[0] != "quantize") Assert.Contains("stroke-dasharray", File.ReadAllText(path)); // or lines would look alike
        Assert.Empty(Directory.GetFiles(_folder.Root, "*.tmp"));
        if (extension == "svg") return string.Join('\n', XDocument.Load(path).Descendants().Where(e => e.Name.LocalName == "text").Select(e => e.Value.Trim()));
        byte[] bytes = File.ReadAllBytes(path);
        Assert.True(bytes.AsSpan().StartsWith(s_png), path);
        Assert.True(bytes.Length > 5_000, $"{bytes.Length} bytes hold no picture");
        return "";
    }
}
