using System.Diagnostics;

namespace MoeSharp.Tests;

/// <summary>What interrupted, crowded and failing conversions leave behind.</summary>
public sealed class ConversionTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private string At(string name) => _folder[name];

    private void WriteModel(int layers = 3) => WideCheckpoint.WriteQwen3(At("wide"), "BF16", layers, experts: 2, hidden: 64, intermediate: 64);

    [Fact]
    public void WhatIsNotWeightsIsCopied()
    {
        WriteModel();
        Assert.Equal(0, ToolRun.Of("quantize", At("wide"), "--format", "block128", "--out", At("fp8")).ExitCode);
        foreach (string name in (string[])["tokenizer.json", Path.Combine("extra", "note.txt")])
            Assert.Equal(File.ReadAllBytes(Path.Combine(At("wide"), name)), File.ReadAllBytes(Path.Combine(At("fp8"), name)));
        Assert.Equal(WideCheckpoint.Files(At("wide")).Keys.Order(StringComparer.Ordinal),
            WideCheckpoint.Files(At("fp8")).Keys.Order(StringComparer.Ordinal));
        Assert.False(Directory.Exists(At("fp8.partial")));
    }

    [Fact]
    public void CancelledRunLeavesNothingUnderTheNameAndGoesOn()
    {
        WriteModel();
        using Checkpoint model = Checkpoint.Open(At("wide"));
        IReadOnlyList<QuantizationError> whole = new Quantization(model, WeightFormat.Block128, linears: false)
            .Write(At("whole"), cancel: TestContext.Current.CancellationToken);

        using var cancel = new CancellationTokenSource();
        Assert.ThrowsAny<OperationCanceledException>(() =>
            new Quantization(model, WeightFormat.Block128, linears: false)
                .Write(At("fp8"), (_, done) => { if (done == 1) cancel.Cancel(); }, cancel.Token));
        Assert.False(Directory.Exists(At("fp8")));
        string first = Path.Combine(At("fp8.partial"), "files", "model-00001-of-00003.safetensors");
        Assert.True(File.Exists(first));
        File.WriteAllText(first + ".1.tmp", "what a killed process leaves");
        DateTime written = File.GetLastWriteTimeUtc(first);

        Assert.Contains("delete it, or give the same options",
            ToolRun.Of("quantize", At("wide"), "--format", "mxfp8", "--out", At("fp8")).Sentence());
        IReadOnlyList<QuantizationError> resumed = new Quantization(model, WeightFormat.Block128, linears: false).Write(
            At("fp8"), progress: null, TestContext.Current.CancellationToken);
        Assert.Equal(whole, resumed);
        Assert.Equal(written, File.GetLastWriteTimeUtc(Path.Combine(At("fp8"), Path.GetFileName(first)))); // not made twice
        AssertEqualFolders(At("whole"), At("fp8"));
    }

    [Fact]
    public void KilledRunGoesOnToTheSameBytes()
    {
        WideCheckpoint.WriteQwen3(At("wide"), "BF16", layers: 5, experts: 4, hidden: 512, intermediate: 512);
        string[] arguments = ["quantize", At("wide"), "--format", "mxfp8", "--out", At("fp8")];
        using (Process process = StartTool(arguments))
        {
            string first = Path.Combine(At("fp8.partial"), "files", "model-00001-of-00005.safetensors");
            while (!File.Exists(first) && !process.HasExited) Thread.Yield();
            process.Kill();
            process.WaitForExit();
        }
        Assert.False(Directory.Exists(At("fp8")), "The process ended before it could be killed.");
        ToolRun resumed = ToolRun.Of(arguments);
        Assert.True(resumed.ExitCode == 0, resumed.Error);
        Assert.Equal(0, ToolRun.Of([.. arguments[..^1], At("whole")]).ExitCode);
        AssertEqualFolders(At("whole"), At("fp8"));
    }

    /// <summary>Ctrl-C as a terminal sends it.</summary>
    [Theory]
    [InlineData("quantize")]
    [InlineData("dequantize")]
    public async Task InterruptedProcessSaysOneSentenceAndTheRunGoesOn(string verb)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has no SIGINT.");
        WideCheckpoint.WriteQwen3(At("wide"), "BF16", layers: 6, experts: 4, hidden: 512, intermediate: 512);
        string[] arguments = ["quantize", At("wide"), "--format", "block128", "--out", At("out")];
        if (verb == "dequantize")
        {
            Assert.Equal(0, ToolRun.Of([.. arguments[..^1], At("fp8")]).ExitCode);
            arguments = ["dequantize", At("fp8"), "--out", At("out")];
        }
        using (Process process = StartTool(arguments))
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
            Task<string> error = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
            string first = Path.Combine(At("out.partial"), "files", "model-00001-of-00006.safetensors");
            while (!File.Exists(first) && !process.HasExited) Thread.Yield();
            await Process.Start("kill", ["-INT", $"{process.Id}"])!.WaitForExitAsync(TestContext.Current.CancellationToken);
            Assert.True(process.WaitForExit(20_000), "Ctrl-C did not end the process.");
            string errors = await error, sentence = errors.TrimEnd().Split('\n')[^1];
            Assert.SkipWhen(Directory.Exists(At("out")) && !errors.Contains("Cancelled", StringComparison.Ordinal), "The run was faster than the signal.");
            Assert.Equal((130, ""), (process.ExitCode, await output));
            Assert.StartsWith($"moesharp: Cancelled; {At("out")} does not exist yet, and the same command goes on where it stopped", sentence);
            Assert.DoesNotContain("   at ", errors);
        }
        Assert.False(Directory.Exists(At("out")));
        ToolRun resumed = ToolRun.Of(arguments);
        Assert.True(resumed.ExitCode == 0, resumed.Error);
        Assert.Equal(0, ToolRun.Of([.. arguments[..^1], At("whole")]).ExitCode);
        AssertEqualFolders(At("whole"), At("out"));
    }

    [Fact]
    public void TwoRunsDoNotWriteTheSameFolder()
    {
        WriteModel();
        using Checkpoint model = Checkpoint.Open(At("wide"));
        string? sentence = null;
        new Quantization(model, WeightFormat.Block128, linears: false).Write(At("fp8"), (_, done) =>
        {
            if (done == 1) sentence = ToolRun.Of("quantize", At("wide"), "--format", "block128", "--out", At("fp8")).Sentence();
        }, TestContext.Current.CancellationToken);
        Assert.Contains("another run", sentence);
    }

    /// <summary>A device that is always full stands in for a disk.</summary>
    [Fact]
    public void FullDiskIsOneSentenceAndTheRunGoesOn()
    {
        if (!OperatingSystem.IsLinux()) return;
        WriteModel();
        string[] arguments = ["quantize", At("wide"), "--format", "block128", "--out", At("fp8")];
        Directory.CreateDirectory(At("fp8.partial"));
        string blocked = Path.Combine(At("fp8.partial"), $"model-00002-of-00003.safetensors.note.{Environment.ProcessId}.tmp");
        File.CreateSymbolicLink(blocked, "/dev/full");
        Assert.EndsWith("note cannot be written: No space left on device; mend that and give the same command to go on where it stopped.", ToolRun.Of(arguments).Sentence());
        Assert.False(Directory.Exists(At("fp8")));
        Assert.False(Path.Exists(blocked));
        Assert.Equal(0, ToolRun.Of(arguments).ExitCode);
    }

    /// <summary>Two shards that are larger by some megabytes need less than twice that more memory; what a process always needs cancels
    /// out.</summary>
    [Theory]
    [InlineData("quantize")]
    [InlineData("dequantize")]
    public void MemoryIsBoundedByTheLargestShard(string verb)
    {
        if (!OperatingSystem.IsLinux()) return; // elsewhere the peak of a process counts other things
        (long smallPeak, long smallShard) = Measure("small", experts: 2);
        (long largePeak, long largeShard) = Measure("large", experts: 20);
        Assert.True(largePeak - smallPeak < 2 * (largeShard - smallShard),
            $"{verb}: {smallPeak} bytes for shards of {smallShard}, {largePeak} for shards of {largeShard}");

        (long Peak, long Shard) Measure(string name, int experts)
        {
            WideCheckpoint.WriteQwen3(At(name), "BF16", layers: 2, experts, hidden: 1024, intermediate: 512); // 3 MiB an expert
            string source = At(name);
            string[] format = ["--format", "block128"];
            if (verb == "dequantize")
            {
                source = At(name + " fp8");
                Assert.Equal(0, ToolRun.Of(["quantize", At(name), .. format, "--out", source]).ExitCode);
                format = [];
            }
            long peak = Peak([verb, source, .. format, "--out", At(name + " out")]);
            return (peak, Directory.GetFiles(source, "*.safetensors").Max(f => new FileInfo(f).Length));
        }
    }

    private static long Peak(string[] arguments)
    {
        using Process process = StartTool(arguments);
        long peak = 0;
        while (!process.WaitForExit(1))
        {
            process.Refresh();
            try
            {
                peak = Math.Max(peak, process.PeakWorkingSet64);
            }
            catch (InvalidOperationException)
            {
                // It ended between the wait and the reading; the readings before count.
            }
        }
        Assert.Equal(0, process.ExitCode);
        return peak;
    }

    private static Process StartTool(string[] arguments)
    {
        string program = Path.Combine(AppContext.BaseDirectory, OperatingSystem.IsWindows() ? "MoeSharp.Cli.exe" : "MoeSharp.Cli");
        return Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
    }

    private static void AssertEqualFolders(string expected, string actual)
    {
        Dictionary<string, byte[]> a = WideCheckpoint.Files(expected), b = WideCheckpoint.Files(actual);
        Assert.Equal(a.Keys.Order(StringComparer.Ordinal), b.Keys.Order(StringComparer.Ordinal));
        foreach ((string name, byte[] bytes) in a) Assert.True(bytes.AsSpan().SequenceEqual(b[name]), $"{name} differs");
    }
}
