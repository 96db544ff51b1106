using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace MoeSharp.Tests;

/// <summary>tests/AmxTrap lets AMX kernels run on machines without AMX.</summary>
public class AmxTrapTests
{
    [Fact]
    public void TrappedInstructionsDoWhatTheReferenceSays()
    {
        string folder = Build();
        try
        {
            (int exitCode, string output) = Run(Path.Combine(folder, "selftest"), [], folder);
            Assert.True(exitCode == 0 && output.Contains("all held", StringComparison.Ordinal), $"exit code {exitCode}:\n{output}");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>The tests of kernels and of whole layers again, in a process that believes to have AMX.</summary>
    [Fact]
    public void AmxKernelsPassTheTestsOfTheOthers()
    {
        string folder = Build();
        try
        {
            string[] tests = [typeof(AmxTrapTests).Assembly.Location, "--filter-method", "*TileKernelTests*", "--filter-method", "*CpuBackendTests.AgreesWithTheReference"];
            (int exitCode, string output) = Run(Environment.ProcessPath is { } path && Path.GetFileNameWithoutExtension(path) == "dotnet" ? path : "dotnet", tests, folder);
            Assert.True(exitCode == 0, $"exit code {exitCode}:\n{output}");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Builds the library and its self test into a new folder; skips the test where that cannot be.</summary>
    private static string Build()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64 && Fma.IsSupported,
            "AMX instructions are trapped on x86-64 Linux with FMA only");
        Assert.SkipUnless(Run("bash", ["-c", "command -v gcc"], null).ExitCode == 0, "gcc is not installed");
        string folder = Directory.CreateTempSubdirectory("moesharp-amxtrap-").FullName;
        (int exitCode, string output) = Run(Repository.PathOf("tests/AmxTrap/build"), [folder], null);
        Assert.True(exitCode == 0, $"gcc does not build the trap:\n{output}");
        return folder;
    }

    private static (int ExitCode, string Output) Run(string program, IEnumerable<string> arguments, string? trap)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true, WorkingDirectory = Repository.Root };
        if (trap is not null)
        {
            start.Environment["LD_PRELOAD"] = Path.Combine(trap, "libamxtrap.so");
            start.Environment["MOESHARP_TEST_AMX"] = "trap";
        }
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output + error.Result);
    }
}
