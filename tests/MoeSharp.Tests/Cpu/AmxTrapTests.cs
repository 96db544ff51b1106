using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>tests/AmxTrap lets AMX kernels run on machines without AMX, and AVX-512 kernels where there is only AVX2: tests of this assembly run again in a process where it is preloaded.</summary>
public sealed partial class AmxTrapTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("moesharp-amxtrap-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void TrappedInstructionsDoWhatTheReferenceSays()
    {
        Build();
        (int exitCode, string output) = Run(Path.Combine(_folder, "selftest"), [], "amx-bf16");
        Assert.True(exitCode == 0 && output.Contains("all held", StringComparison.Ordinal), $"exit code {exitCode}:\n{output}");
    }

    [Fact]
    public void TileKernelTestsPass() => PassTrapped(nameof(TileKernelTests) + (CpuFeatures.Avx512 ? ".*" : $".{nameof(TileKernelTests.AgreesWithAPlainSum)}"), "amx-bf16");

    /// <summary>Those of kernels for AVX-512, which are trapped as well, among them.</summary>
    [Fact(Explicit = true)]
    [Trait("Category", "AmxTrap")]
    public void AllTileKernelTestsPass() => PassTrapped($"{nameof(TileKernelTests)}.*", "amx-bf16");

    /// <summary>Ten seconds each or more, so <c>.ci/run</c> asks for them by their trait: small layers against the reference, and the same bits in any company.</summary>
    [Theory(Explicit = true)]
    [Trait("Category", "AmxTrap")]
    [InlineData("amx-bf16")]
    [InlineData("avx512-bf16")]
    [InlineData("avx512")]
    public void SmallLayersPass(string kernel)
    {
        Assert.SkipWhen(kernel != "amx-bf16" && CpuFeatures.Avx512, "this machine's own AVX-512 is tested without a trap");
        PassTrapped($"{nameof(CpuBackendTests)}.{nameof(CpuBackendTests.AFewRowsAgreeWithTheReferenceAloneAndTogether)}", kernel);
    }

    /// <summary>A minute or two with tile instructions trapped.</summary>
    [Theory(Explicit = true)]
    [Trait("Category", "AmxTrap")]
    [InlineData(nameof(CpuBackendTests))]
    [InlineData(nameof(FusedExpertsBitsTests))]
    [InlineData(nameof(GoldenTests))]
    public void LayerTestsPass(string testClass)
    {
        Assert.SkipUnless(CpuFeatures.Avx512, "takes an hour where AVX-512 is trapped too, and small layers are tested instead");
        PassTrapped($"{testClass}.*", "amx-bf16");
    }

    private void PassTrapped(string tests, string kernel)
    {
        Assert.SkipWhen(CpuFeatures.Avx512 && !CpuFeatures.Avx512Vbmi, "FP8 is decoded with AVX512-VBMI, which is not trapped on a machine with other AVX-512");
        Build();
        (int exitCode, string output) = Run(Path.Combine(AppContext.BaseDirectory, "MoeSharp.Tests"), ["--filter-method", $"MoeSharp.Tests.{tests}"], kernel);
        Assert.True(exitCode == 0, $"{tests} ended with {exitCode}:\n{output}");
        GroupCollection counts = Instructions().Match(output).Groups;
        Assert.True(long.Parse(counts[kernel == "amx-bf16" ? "amx" : "avx512"].Value) > 500, $"{tests} hardly used {kernel}:\n{output}");
    }

    /// <summary>Builds the library and its self test; skips the test where that cannot be.</summary>
    private void Build()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64 && CpuFeatures.Avx2Fma,
            "instructions are trapped on x86-64 Linux with AVX2, FMA and F16C only");
        Assert.SkipUnless(Run("bash", ["-c", "command -v gcc"]).ExitCode == 0, "gcc is not installed");
        (int exitCode, string output) = Run(Repository.PathOf("tests/AmxTrap/build"), [_folder]);
        Assert.True(exitCode == 0, $"gcc does not build the trap:\n{output}");
    }

    private (int ExitCode, string Output) Run(string program, IEnumerable<string> arguments, string? trappedKernel = null)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true, WorkingDirectory = Repository.Root };
        if (trappedKernel != null)
        {
            start.Environment["LD_PRELOAD"] = Path.Combine(_folder, "libamxtrap.so");
            start.Environment["AMXTRAP_REPORT"] = "1";
            start.Environment["MOESHARP_TEST_AMX"] = "trap";
            start.Environment["MOESHARP_CPU_KERNEL"] = trappedKernel;
        }
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output + error.Result);
    }

    [GeneratedRegex(@"amxtrap: (?<amx>\d+) AMX and (?<avx512>\d+) AVX-512 instructions")]
    private static partial Regex Instructions();
}
