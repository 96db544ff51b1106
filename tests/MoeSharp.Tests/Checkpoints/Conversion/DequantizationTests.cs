namespace MoeSharp.Tests;

public sealed class DequantizationTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private string At(string name) => _folder[name];

    public static TheoryData<string> Samples =>
        new(SampleCheckpoint.Folders().Where(f => !f.Contains("gpt-oss", StringComparison.Ordinal)).Select(
            f => Path.GetRelativePath(Repository.Root, f)));

    /// <summary>Every expert's weights are value times scale, rounded to BF16 once; read by the library from both folders.</summary>
    [Theory]
    [MemberData(nameof(Samples))]
    public void WideWeightsAreTheQuantizedOnesRoundedOnce(string sample)
    {
        string folder = Repository.PathOf(sample);
        Assert.Equal(0, ToolRun.Of("dequantize", folder, "--out", At("wide")).ExitCode);
        AssertSame(folder, At("wide"));
    }

    [Theory]
    [InlineData("block128")]
    [InlineData("block128-pow2")]
    [InlineData("mxfp8")]
    public void RoundTripGivesTheQuantizedValues(string format)
    {
        WideCheckpoint.WriteQwen3(At("wide"), "F32", layers: 1, experts: 2, hidden: 192, intermediate: 160);
        Assert.Equal(0, ToolRun.Of("quantize", At("wide"), "--format", format, "--out", At("fp8")).ExitCode);
        Assert.Equal(0, ToolRun.Of("dequantize", At("fp8"), "--out", At("back")).ExitCode);
        AssertSame(At("fp8"), At("back"));
        if (format == "block128") return;
        // Powers of two lose nothing on the way to BF16: quantizing that again is exact.
        Assert.Equal(0, ToolRun.Of("quantize", At("back"), "--format", format, "--out", At("again")).ExitCode);
        Assert.Equal(0, ToolRun.Of("dequantize", At("again"), "--out", At("back again")).ExitCode);
        foreach ((string name, byte[] bytes) in WideCheckpoint.Files(At("back")))
            Assert.Equal(bytes, File.ReadAllBytes(Path.Combine(At("back again"), name)));
    }

    private static void AssertSame(string quantized, string wide)
    {
        using Checkpoint narrowModel = Checkpoint.Open(quantized), wideModel = Checkpoint.Open(wide);
        Assert.Null(wideModel.QuantizedFormat);
        foreach (int layer in narrowModel.MoeLayers)
        {
            using LayerParts narrow = narrowModel.ReadLayer(layer), widened = wideModel.ReadLayer(layer);
            AssertSame(narrow.Experts, widened.Experts);
            if (narrow.SharedExperts is not null) AssertSame(narrow.SharedExperts, widened.SharedExperts!);
        }
    }

    private static void AssertSame(ExpertWeights narrow, ExpertWeights wide)
    {
        foreach ((BlockScaledMatrix a, BlockScaledMatrix b) in narrow.Gate.Concat(narrow.Up).Concat(narrow.Down).Zip(
            wide.Gate.Concat(wide.Up).Concat(wide.Down)))
        {
            float[] expected = new float[a.Columns], actual = new float[a.Columns];
            for (int r = 0; r < a.Rows; r++)
            {
                a.DequantizeRow(r, expected);
                for (int c = 0; c < expected.Length; c++) expected[c] = BFloat16.FromSingle(expected[c]);
                b.DequantizeRow(r, actual);
                Assert.True(expected.AsSpan().SequenceEqual(actual), $"{a.Name}, row {r}");
            }
        }
    }
}
