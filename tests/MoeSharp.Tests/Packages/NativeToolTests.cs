using System.Diagnostics;
using System.Text.Json;

namespace MoeSharp.Tests;

/// <summary>The tool compiled ahead of time, beside the tool of this build. Half a minute of compilers, so <c>.ci/run</c> asks for it by its trait.</summary>
[Trait("Category", "NativeAot")]
public class NativeToolTests(NativeToolTests.NativeTool tool) : IClassFixture<NativeToolTests.NativeTool>
{
    private const string Sample = "samples/tiny-qwen3-moe-fp8", Managed = "managed-";
    private const double MostSlowdown = 3; // coarse, for machines shared with others; the benchmark tells small differences

    [Fact(Explicit = true)]
    public void IsOneExecutableThatExplainsItself()
    {
        string[] files = [.. Directory.EnumerateFiles(tool.Folder).Select(f => Path.GetFileName(f)!).Where(f => !f.EndsWith(".pdb") && !f.EndsWith(".dbg") && !f.StartsWith("libSkiaSharp") && !f.StartsWith("libHarfBuzzSharp")).Order()];
        Assert.Equal([Path.GetFileName(tool.Program)], files);
        TestContext.Current.SendDiagnosticMessage($"{new FileInfo(tool.Program).Length / 1e6:F1} MB, published in {tool.Seconds:F0} s");
        Assert.Contains("moesharp run", tool.Succeed("--help"));
        Assert.Contains("Agrees with the reference", tool.Succeed("verify", Sample));
    }

    /// <summary>Two native libraries, which only pictures need.</summary>
    [Fact(Explicit = true)]
    public void DrawsWithTheLibrariesBesideItAndSaysWhenTheyAreMissing()
    {
        string picture = Path.Combine(tool.Folder, "load.png");
        string[] run = ["run", Sample, "--layer", "0", "--plot", picture];
        tool.Succeed(run);
        Assert.True(new FileInfo(picture).Length > 5_000);
        File.Delete(picture);
        using var alone = new TemporaryFolder();
        string program = alone[Path.GetFileName(tool.Program)];
        File.Copy(tool.Program, program);
        Assert.Contains("could not be loaded; put them there, or leave out --plot.", NativeTool.Run(program, run).Output);
        Assert.Equal(0, NativeTool.Run(program, run[..^2]).ExitCode);
    }

    [Fact(Explicit = true)]
    public void ComputesTheSameBits()
    {
        for (int seed = 1; seed <= 3; seed++)
        {
            string native = Path.Combine(tool.Folder, "native.out"), compiled = Path.Combine(tool.Folder, "compiled.out");
            string[] run = ["run", Sample, "--layer", "1", "--tokens", "50", "--seed", $"{seed}", "--output"];
            tool.Succeed([.. run, native]);
            (int exitCode, string output) = Repository.Run("MoeSharp.Cli", [.. run, compiled]);
            Assert.True(exitCode == 0, output);
            Assert.True(File.ReadAllBytes(native).AsSpan().SequenceEqual(File.ReadAllBytes(compiled)), $"The outputs of seed {seed} differ.");
            File.Delete(native);
            File.Delete(compiled);
        }
    }

    /// <summary>Kernels made at run time are the same in both, and so is their speed. Managed SIMD is not: compiled ahead of time it suits old processors too.</summary>
    [Fact(Explicit = true)]
    public void ChoosesTheSameKernelsAndIsAsFast()
    {
        string[] bench = ["bench", "--shape", "8,2,1024,512", "--tokens", "1,64", "--json"];
        JsonElement[] native = Results(tool.Succeed(bench)), compiled = Results(Repository.Run("MoeSharp.Cli", bench).Output);
        for (int i = 0; i < native.Length; i++)
        {
            string kernel = compiled[i].GetProperty("kernel").GetString()!;
            Assert.SkipWhen(kernel.StartsWith(Managed, StringComparison.Ordinal), "No kernel is made at run time on this machine.");
            Assert.Equal(kernel, native[i].GetProperty("kernel").GetString());
            double ratio = native[i].GetProperty("median_ms").GetDouble() / compiled[i].GetProperty("median_ms").GetDouble();
            Assert.True(ratio < MostSlowdown, $"{native[i].GetProperty("tokens")} tokens take {ratio:F1} times as long as under the JIT.");
        }
    }

    private static JsonElement[] Results(string output) =>
        [.. JsonDocument.Parse(output[output.IndexOf('{', StringComparison.Ordinal)..(output.LastIndexOf('}') + 1)]).RootElement.GetProperty("results").EnumerateArray()];

    /// <summary>Published once for all tests, with restores and outputs of its own.</summary>
    public sealed class NativeTool : IDisposable
    {
        private readonly string _root = Directory.CreateTempSubdirectory("moesharp-native-").FullName;
        private readonly string? _whyNot;

        public NativeTool()
        {
            _whyNot = OperatingSystem.IsWindows() || PackageTests.FindsLinker() ? null : "NativeAOT needs a linker, and neither clang nor gcc is on the path.";
            if (_whyNot is not null) return;
            long start = Stopwatch.GetTimestamp();
            (int exitCode, string output) = Run("dotnet",
                "publish", "src/MoeSharp.Cli", "-c", "Release", "--use-current-runtime", "-p:PublishAot=true", "-o", Folder, "--artifacts-path", Path.Combine(_root, "build"),
                $"-p:NuGetLockFilePath={Path.Combine(_root, "packages.lock.json")}");
            Seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            if (exitCode == 0) return;
            Dispose();
            Assert.Fail($"Publishing ended with {exitCode}:\n{output}");
        }

        public double Seconds { get; }

        public string Folder => Path.Combine(_root, "out");

        public string Program
        {
            get
            {
                Assert.SkipWhen(_whyNot is not null, _whyNot ?? "");
                return Path.Combine(Folder, OperatingSystem.IsWindows() ? "moesharp.exe" : "moesharp");
            }
        }

        public string Succeed(params string[] arguments)
        {
            (int exitCode, string output) = Run(Program, arguments);
            Assert.True(exitCode == 0, $"{string.Join(' ', arguments)} ended with {exitCode}:\n{output}");
            return output;
        }

        internal static (int ExitCode, string Output) Run(string program, params string[] arguments)
        {
            var start = new ProcessStartInfo(program, arguments) { WorkingDirectory = Repository.Root, RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
            start.Environment["DOTNET_CLI_USE_MSBUILD_SERVER"] = "0";
            start.Environment["MSBUILDDISABLENODEREUSE"] = "1";
            foreach (string inherited in (string[])["MSBUILD_EXE_PATH", "MSBuildSDKsPath", "MSBuildExtensionsPath"]) start.Environment.Remove(inherited);
            using Process process = Process.Start(start)!;
            process.StandardInput.Close();
            Task<string> error = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return (process.ExitCode, output + error.Result);
        }

        public void Dispose() => Directory.Delete(_root, recursive: true);
    }
}
