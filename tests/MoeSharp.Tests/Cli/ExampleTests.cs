using System.Diagnostics;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>Every example that --help shows works as it stands, beside the samples.</summary>
public class ExampleTests
{
    public static TheoryData<string> Verbs => [.. Tool.Root().Subcommands.Select(verb => verb.Name), ""];

    [Theory]
    [MemberData(nameof(Verbs))]
    public async Task ExamplesWork(string name)
    {
        if (OperatingSystem.IsWindows()) return; // symbolic links need rights there
        using var folder = new TemporaryFolder();
        string place = Path.GetDirectoryName(folder["x"])!;
        Directory.CreateSymbolicLink(Path.Combine(place, "samples"), Repository.PathOf("samples"));
        IReadOnlyList<string> examples = name == "" ? [HelpWithExamples.RootExample] : Tool.Root().Subcommands.OfType<Verb>().Single(verb => verb.Name == name).Examples;
        Assert.NotEmpty(examples);
        foreach (string example in examples)
        {
            var start = new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "MoeSharp.Cli"), example.Split(' ')[1..])
            {
                WorkingDirectory = place,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            };
            using Process process = Process.Start(start)!;
            Task<string> error = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
            string output = await process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken), errors = await error;
            await process.WaitForExitAsync(TestContext.Current.CancellationToken);
            Assert.SkipWhen(errors.Contains("no fonts", StringComparison.Ordinal), "This machine has no fonts.");
            Assert.True(process.ExitCode == 0, $"{example}\nended with {process.ExitCode}:\n{output}{errors}");
            Assert.NotEmpty(output);
        }
    }
}
