using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>tests/AmxTrap lets AMX kernels run on machines without AMX: tests of this assembly run again in a process where it is preloaded.</summary>
public sealed partial class AmxTrapTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("moesharp-amxtrap-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void TrappedInstructionsDoWhatTheReferenceSays()
    {
        Build();
        (int exitCode, string output) = Run(Path.Combine(_folder, "selftest"), [], preload: true);
        Assert.True(exitCode == 0 && output.Contains("all held", StringComparison.Ordinal), $"exit code {exitCode}:\n{output}");
    }

    [Fact]
    public void TileKernelTestsPass() => PassTrapped(nameof(TileKernelTests));

    /// <summary>A minute or two, so <c>.ci/run</c> asks for it by its trait: layers against the reference, and the same bits in any company.</summary>
    [Theory(Explicit = true)]
    [Trait("Category", "AmxTrap")]
    [InlineData(nameof(CpuBackendTests))]
    [InlineData(nameof(FusedExpertsBitsTests))]
    [InlineData(nameof(GoldenTests))]
    public void LayerTestsPass(string testClass) => PassTrapped(testClass);

    private void PassTrapped(string testClass)
    {
        Assert.SkipUnless(CpuFeatures.Avx512Vbmi, "AMX kernels decode FP8 with AVX512-VBMI, which this machine lacks.");
        Build();
        (int exitCode, string output) = Run(Path.Combine(AppContext.BaseDirectory, "MoeSharp.Tests"), ["--filter-class", $"MoeSharp.Tests.{testClass}"], preload: true);
        Assert.True(exitCode == 0, $"{testClass} ended with {exitCode}:\n{output}");
        Assert.True(long.Parse(Instructions().Match(output).Groups[1].Value) > 1000, $"{testClass} hardly used AMX:\n{output}");
    }

    /// <summary>Builds the library and its self test; skips the test where that cannot be.</summary>
    private void Build()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64 && Fma.IsSupported,
            "AMX instructions are trapped on x86-64 Linux with FMA only");
        Assert.SkipUnless(Run("bash", ["-c", "command -v gcc"]).ExitCode == 0, "gcc is not installed");
        (int exitCode, string output) = Run(Repository.PathOf("tests/AmxTrap/build"), [_folder]);
        Assert.True(exitCode == 0, $"gcc does not build the trap:\n{output}");
    }

    private (int ExitCode, string Output) Run(string program, IEnumerable<string> arguments, bool preload = false)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true, WorkingDirectory = Repository.Root };
        if (preload)
        {
            start.Environment["LD_PRELOAD"] = Path.Combine(_folder, "libamxtrap.so");
            start.Environment["AMXTRAP_REPORT"] = "1";
            start.Environment["MOESHARP_TEST_AMX"] = "trap";
            start.Environment["MOESHARP_CPU_KERNEL"] = "amx-bf16";
        }
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output + error.Result);
    }

    [GeneratedRegex(@"amxtrap: (\d+) instructions")]
    private static partial Regex Instructions();
}
