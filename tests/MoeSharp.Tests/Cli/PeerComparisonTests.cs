using System.Diagnostics;
using System.Text.Json;

namespace MoeSharp.Tests;

/// <summary>The benchmark program, which is built beside the tests but is no part of them: its packages are large.</summary>
public class PeerComparisonTests
{
    [Fact]
    public void BothSidesComputeTheSameLayerAndResultsAreAdded()
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("moesharp-benchmarks-");
        try
        {
            string path = Path.Combine(folder.FullName, "machine");
            foreach (string arguments in (string[])["--shape 8,2,256,128 --tokens 1,5 --rounds 3 --threads 2", "--shape 4,1,128,256 --tokens 2 --rounds 1", "--shape 8,2,256,128 --tokens 1,4 --rounds 2 --threads 1"])
                Assert.Contains("Ceilings, measured between the rounds", Run(["--peer", "onnxruntime", .. arguments.Split(' '), "--out", path]));
            JsonElement[] runs = [.. JsonDocument.Parse(File.ReadAllText(path + ".json")).RootElement.GetProperty("runs").EnumerateArray()];
            Assert.Equal(["4,1,128,256", "8,2,256,128"], runs.Select(run => run.GetProperty("shape").GetString()));
            foreach (JsonElement run in runs) // E4M3 activations are coarser than int8 ones
                Assert.InRange(run.GetProperty("peer_error").GetDouble(), 1e-3, run.GetProperty("our_error").GetDouble());
            JsonElement[] results = [.. runs[1].GetProperty("results").EnumerateArray()];
            Assert.Equal([1, 4], results.Select(row => row.GetProperty("tokens").GetInt32()));
            Assert.All(results, row => Assert.Equal(2, row.GetProperty("ratios").GetArrayLength()));
            Assert.Equal(6L * 4 * 2 * 256 * 128, results[1].GetProperty("flops").GetInt64());
            string text = File.ReadAllText(path + ".md");
            Assert.Contains("## 8,2,256,128 beside ONNX Runtime", text);
            Assert.Contains("(machine-8-2-256-128.svg)", text);
            string picture = File.ReadAllText(path + "-8-2-256-128.svg");
            Assert.Contains("<svg", picture);
            Assert.Contains("stroke-dasharray=\"10 6\"", picture); // the peer
            Assert.Contains("stroke-dasharray=\"2 4\"", picture); // a ceiling
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public void EveryKernelIsTimedByStages()
    {
        string text = Run("stages", "--shape", "8,2,256,128", "--tokens", "1,3", "--rounds", "1", "--threads", "2");
        foreach (IGemmKernel kernel in GemmKernels.All)
            Assert.Equal(kernel.IsSupported ? 2 : 0, text.Split('\n').Count(line => line.StartsWith(kernel.Name + " ", StringComparison.Ordinal)));
    }

    private static string Run(params string[] arguments)
    {
        string output = AppContext.BaseDirectory.Replace(Path.Combine("tests", "MoeSharp.Tests"), Path.Combine("src", "MoeSharp.Benchmarks"), StringComparison.Ordinal);
        string program = Path.Combine(output, OperatingSystem.IsWindows() ? "MoeSharp.Benchmarks.exe" : "MoeSharp.Benchmarks");
        Assert.SkipUnless(File.Exists(program), "MoeSharp.Benchmarks is not built");
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, text + error.Result);
        return text;
    }
}
