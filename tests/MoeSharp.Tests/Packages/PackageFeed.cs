using System.Diagnostics;
using System.IO.Compression;

namespace MoeSharp.Tests;

/// <summary>All packages, packed from the checkout into a temporary folder, and commands that see no other MoeSharp packages than these.</summary>
public sealed class PackageFeed : IDisposable
{
    private const int TimeoutSeconds = 240;

    public PackageFeed()
    {
        Folder = Directory.CreateTempSubdirectory("moesharp-packages-").FullName;
        Feed = Path.Combine(Folder, "feed");
        // Outputs of its own: what other tests run stays as it is.
        Succeed(Repository.Root, "pack", "-c", "Release", "-o", Feed, "--artifacts-path", Repository.PathOf("artifacts/packages"), "-v", "quiet");
    }

    /// <summary>Everything of this run.</summary>
    public string Folder { get; }

    /// <summary>Where the packages lie.</summary>
    public string Feed { get; }

    /// <summary>The package with this name, whatever its version.</summary>
    public string PathOf(string package, string extension = ".nupkg") =>
        Assert.Single(Directory.GetFiles(Feed, $"{package}.*{extension}"), f => char.IsAsciiDigit(Path.GetFileName(f)[package.Length + 1]));

    /// <summary>Names in a package, or the bytes of one of them.</summary>
    public IReadOnlyList<string> Names(string package, string extension = ".nupkg")
    {
        using ZipArchive zip = ZipFile.OpenRead(PathOf(package, extension));
        return [.. zip.Entries.Select(e => e.FullName)];
    }

    public byte[] Read(string package, string name)
    {
        using ZipArchive zip = ZipFile.OpenRead(PathOf(package));
        using Stream stream = (zip.GetEntry(name) ?? throw new InvalidOperationException($"{package} has no {name}.")).Open();
        using var bytes = new MemoryStream();
        stream.CopyTo(bytes);
        return bytes.ToArray();
    }

    /// <summary>A folder as a stranger would have it: a project, a program, packages added with the commands of docs/install.md.</summary>
    public string NewProject(string name, string program, params string[] packages)
    {
        string folder = Directory.CreateDirectory(Path.Combine(Folder, name)).FullName;
        File.WriteAllText(Path.Combine(folder, $"{name}.csproj"), $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <PropertyGroup>
                <OutputType>Exe</OutputType>
                <TargetFramework>net10.0</TargetFramework>
                <ImplicitUsings>enable</ImplicitUsings>
                <Nullable>enable</Nullable>
                <TreatWarningsAsErrors>true</TreatWarningsAsErrors>
                <NuGetAudit>false</NuGetAudit>
                <RestoreFallbackFolders>{Downloaded}</RestoreFallbackFolders>
              </PropertyGroup>
            </Project>
            """);
        File.WriteAllText(Path.Combine(folder, "Program.cs"), program);
        string config = Path.Combine(folder, "nuget.config"); // of its own, on top of the user's
        File.WriteAllText(config, "<configuration></configuration>");
        Succeed(folder, "nuget", "add", "source", Feed, "--name", "moesharp", "--configfile", config);
        foreach (string package in packages) Succeed(folder, "add", "package", package);
        return folder;
    }

    /// <summary>Runs the SDK in a folder; returns what it printed.</summary>
    public string Succeed(string folder, params string[] arguments) => Succeed("dotnet", folder, arguments);

    /// <summary>Runs a program in a folder; returns what it printed.</summary>
    public string Succeed(string program, string folder, string[] arguments)
    {
        (int exitCode, string output) = Run(program, folder, arguments);
        Assert.True(exitCode == 0, $"{program} {string.Join(' ', arguments)} in {folder} ended with {exitCode}:\n{output}");
        return output;
    }

    /// <summary>What the user has downloaded before, read only: restores need no network for packages that lie there.</summary>
    private static string Downloaded { get; } = Environment.GetEnvironmentVariable("NUGET_PACKAGES")
        ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");

    private (int ExitCode, string Output) Run(string program, string folder, string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { WorkingDirectory = folder, RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        if (folder != Repository.Root) start.Environment["NUGET_PACKAGES"] = Path.Combine(Folder, "packages"); // the real one would keep this run's packages
        start.Environment["DOTNET_CLI_USE_MSBUILD_SERVER"] = "0";
        start.Environment["MSBUILDDISABLENODEREUSE"] = "1";
        foreach (string inherited in (string[])["MSBUILD_EXE_PATH", "MSBuildSDKsPath", "MSBuildExtensionsPath"]) start.Environment.Remove(inherited);
        using Process process = Process.Start(start) ?? throw new InvalidOperationException($"{program} did not start.");
        process.StandardInput.Close();
        Task<string> error = process.StandardError.ReadToEndAsync(), output = process.StandardOutput.ReadToEndAsync();
        if (!process.WaitForExit(TimeSpan.FromSeconds(TimeoutSeconds)))
        {
            process.Kill(entireProcessTree: true);
            Assert.Fail($"{program} {string.Join(' ', arguments)} took more than {TimeoutSeconds} s.");
        }
        return (process.ExitCode, output.Result + error.Result);
    }

    public void Dispose() => Directory.Delete(Folder, recursive: true);
}
