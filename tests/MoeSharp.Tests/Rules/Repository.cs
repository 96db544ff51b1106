using System.Diagnostics;
using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>The files of the checkout that the tests were built from.</summary>
internal static partial class Repository
{
    /// <summary>How documents start the tool.</summary>
    public const string Tool = "dotnet run -c Release --project src/MoeSharp.Cli -- ";

    private static readonly string[] BuildOutputs = ["bin", "obj", "artifacts", ".git", "TestResults", ".vs", ".carry"];

    /// <summary>The folder that holds the solution.</summary>
    public static string Root { get; } = FindRoot();

    public static string PathOf(string relative) => Path.Combine(Root, relative);

    public static string ReadText(string relative) => File.ReadAllText(PathOf(relative));

    /// <summary>Paths relative to the root, with forward slashes, of all files that are not build outputs.</summary>
    public static IEnumerable<string> Files(string extension) =>
        Walk(Root).Where(f => f.EndsWith(extension, StringComparison.Ordinal)).Select(f => Path.GetRelativePath(Root, f).Replace('\\', '/')).Order(StringComparer.Ordinal);

    /// <summary>The fenced blocks of a markdown text with this language.</summary>
    public static IEnumerable<string> Blocks(string markdown, string language) =>
        Fence().Matches(markdown).Where(m => m.Groups[1].Value == language).Select(m => m.Groups[2].Value);

    /// <summary>Runs a program of this build (its executable lies beside the tests) in the root; returns exit code and everything it printed.</summary>
    public static (int ExitCode, string Output) Run(string assembly, IEnumerable<string> arguments)
    {
        string program = Path.Combine(AppContext.BaseDirectory, OperatingSystem.IsWindows() ? assembly + ".exe" : assembly);
        var start = new ProcessStartInfo(program, arguments)
        {
            WorkingDirectory = Root,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using Process process = Process.Start(start) ?? throw new InvalidOperationException($"{program} did not start.");
        process.StandardInput.Close();
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output + error.Result);
    }

    private static IEnumerable<string> Walk(string folder) =>
        Directory.EnumerateFiles(folder).Concat(
            Directory.EnumerateDirectories(folder).Where(d => !BuildOutputs.Contains(Path.GetFileName(d))).SelectMany(Walk));

    private static string FindRoot()
    {
        for (DirectoryInfo? d = new(AppContext.BaseDirectory); d is not null; d = d.Parent)
            if (File.Exists(Path.Combine(d.FullName, "MoeSharp.slnx"))) return d.FullName;
        throw new InvalidOperationException($"No folder above {AppContext.BaseDirectory} holds MoeSharp.slnx; run the tests from a checkout.");
    }

    [GeneratedRegex(@"^```(\w*)\s*\n(.*?)^```\s*$", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex Fence();
}
