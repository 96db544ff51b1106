using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;
using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace MoeSharp.Tests;

/// <summary>What a stranger gets: packages in a feed, an empty project, the README's program. Minutes of compilers, so <c>.ci/run</c> asks for it by its trait.</summary>
[Trait("Category", "Packages")]
public class PackageTests(PackageFeed feed) : IClassFixture<PackageFeed>
{
    private const double SizeTolerance = 0.25;
    private static readonly string[] s_libraries = ["MoeSharp", "MoeSharp.Cuda"], s_all = [.. s_libraries, "MoeSharp.Cli"];

    [Fact(Explicit = true)]
    public void PackagesAreComplete()
    {
        Assert.Equal(2 * s_all.Length, Directory.GetFiles(feed.Feed).Length);
        foreach (string package in s_all)
        {
            XElement metadata = XDocument.Load(new MemoryStream(feed.Read(package, $"{package}.nuspec"))).Root!.Elements().First();
            string Value(string name) => metadata.Elements().Single(e => e.Name.LocalName == name).Value;
            Assert.Equal("Apache-2.0", Value("license"));
            Assert.Equal("README.md", Value("readme"));
            Assert.Matches(@"\w.{40,}\.$", Value("description"));
            Assert.StartsWith($"# {package}\n", System.Text.Encoding.UTF8.GetString(feed.Read(package, "README.md")), StringComparison.Ordinal);
            Assert.Contains(feed.Names(package, ".snupkg"), n => n.EndsWith($"/{package}.pdb", StringComparison.Ordinal));
        }
        foreach (string library in s_libraries)
            Assert.Equal([$"lib/net10.0/{library}.dll", $"lib/net10.0/{library}.xml"], feed.Names(library).Where(n => n.StartsWith("lib/", StringComparison.Ordinal)).Order());
        Assert.Contains("tools/net10.0/any/DotnetToolSettings.xml", feed.Names("MoeSharp.Cli"));
    }

    [Fact(Explicit = true)]
    public void LibrariesAreReproducibleTrimmableAndAotCompatible()
    {
        foreach (string library in s_libraries)
        {
            using var file = new PEReader(new MemoryStream(feed.Read(library, $"lib/net10.0/{library}.dll")));
            MetadataReader reader = file.GetMetadataReader();
            string attributes = string.Join(' ', reader.CustomAttributes.Select(a => System.Text.Encoding.UTF8.GetString(reader.GetBlobBytes(reader.GetCustomAttribute(a).Value))));
            Assert.Contains("IsTrimmable", attributes, StringComparison.Ordinal);
            Assert.Contains("IsAotCompatible", attributes, StringComparison.Ordinal);
            DebugDirectoryEntry symbols = Assert.Single(file.ReadDebugDirectory(), d => d.Type == DebugDirectoryEntryType.CodeView);
            Assert.StartsWith("/_/", file.ReadCodeViewDebugDirectoryData(symbols).Path, StringComparison.Ordinal); // and not where it was built
            Assert.Contains(file.ReadDebugDirectory(), d => d.Type == DebugDirectoryEntryType.Reproducible);
        }
        using var cuda = new PEReader(new MemoryStream(feed.Read("MoeSharp.Cuda", "lib/net10.0/MoeSharp.Cuda.dll")));
        MetadataReader resources = cuda.GetMetadataReader();
        Assert.Contains(resources.ManifestResources, r => resources.GetString(resources.GetManifestResource(r).Name).StartsWith("kernels/", StringComparison.Ordinal));
    }

    [Fact(Explicit = true)]
    public void DependenciesAreThoseOfTheInstallPage()
    {
        string page = Repository.ReadText("docs/install.md"), line = page.Split('\n').Single(l => l.StartsWith("- Dependencies of `MoeSharp`:", StringComparison.Ordinal));
        string[] ids = [.. XDocument.Load(new MemoryStream(feed.Read("MoeSharp", "MoeSharp.nuspec"))).Descendants().Where(e => e.Name.LocalName == "dependency").Select(e => e.Attribute("id")!.Value)];
        Assert.All(ids, id => Assert.Contains(id, line, StringComparison.Ordinal));
        XElement core = XDocument.Load(new MemoryStream(feed.Read("MoeSharp.Cuda", "MoeSharp.Cuda.nuspec"))).Descendants().Single(e => e.Name.LocalName == "dependency");
        Assert.Equal("MoeSharp", core.Attribute("id")!.Value);
        Assert.Matches(@"^\[\d+\.\d+\.\d+\S*\]$", core.Attribute("version")!.Value); // exactly its own
    }

    [Fact(Explicit = true)]
    public void SizesAreThoseOfTheInstallPage()
    {
        string page = Repository.ReadText("docs/install.md");
        foreach (string package in s_all)
        {
            double kilobytes = new FileInfo(feed.PathOf(package)).Length / 1e3;
            Match row = Regex.Match(page, $@"^\| `{Regex.Escape(package)}` \| ([\d.]+) (kB|MB) \|", RegexOptions.Multiline);
            Assert.True(row.Success, $"docs/install.md has no row for {package}; it has {kilobytes:F0} kB.");
            double stated = double.Parse(row.Groups[1].Value) * (row.Groups[2].Value == "MB" ? 1000 : 1);
            Assert.True(Math.Abs(kilobytes / stated - 1) < SizeTolerance, $"docs/install.md says that {package} has {stated} kB but it has {kilobytes:F0}.");
        }
    }

    [Fact(Explicit = true)]
    public void ProgramOfTheReadmeRunsInAnEmptyProject()
    {
        string folder = feed.NewProject("Empty", Program(), "MoeSharp");
        CopySample(folder);
        Assert.EndsWith(PrintedInTheReadme(), feed.Succeed(folder, "run", "-c", "Release"), StringComparison.Ordinal);
    }

    [Fact(Explicit = true)]
    public void ProgramOfTheReadmeRunsAheadOfTimeCompiled()
    {
        Assert.SkipUnless(OperatingSystem.IsWindows() || FindsLinker(), "NativeAOT needs a linker, and neither clang nor gcc is on the path.");
        string folder = feed.NewProject("Ahead", Program(), "MoeSharp.Cuda"); // which brings MoeSharp
        File.WriteAllText(Path.Combine(folder, "Gpu.cs"), """
            using System.Runtime.CompilerServices;
            using MoeSharp;

            internal static class Gpu
            {
                [ModuleInitializer]
                internal static void Ask()
                {
                    using var gpu = new CudaBackend();
                    Console.WriteLine($"cuda: {gpu.SupportsDevice().Reason ?? "ready"}");
                }
            }
            """);
        CopySample(folder);
        feed.Succeed(folder, "publish", "-c", "Release", "--use-current-runtime", "-o", "out", "-p:PublishAot=true", "-p:IlcInstructionSet=native"); // trimming and AOT warnings are errors
        string program = Path.Combine(folder, "out", OperatingSystem.IsWindows() ? "Ahead.exe" : "Ahead");
        string output = feed.Succeed(program, folder, []);
        Assert.StartsWith("cuda: ", output, StringComparison.Ordinal);
        Assert.EndsWith(PrintedInTheReadme(), output, StringComparison.Ordinal);
        double megabytes = new FileInfo(program).Length / 1e6;
        Match stated = Regex.Match(Repository.ReadText("docs/install.md"), @"executable has ([\d.]+) MB");
        Assert.True(Math.Abs(megabytes / double.Parse(stated.Groups[1].Value) - 1) < SizeTolerance, $"docs/install.md says {stated.Value} but it has {megabytes:F1}.");
    }

    /// <summary>Without an instruction set the kernels would be a hundred times slower; the package says so where a program is published.</summary>
    [Theory(Explicit = true)]
    [InlineData(true, "linux-x64", "", true)]
    [InlineData(true, "win-x64", "x86-64-v3", false)]
    [InlineData(true, "osx-arm64", "", false)]
    [InlineData(false, "linux-x64", "", false)]
    public void AheadOfTimeWithoutInstructionSetIsWarnedOf(bool ahead, string runtime, string instructions, bool warned)
    {
        string folder = Path.Combine(feed.Folder, "Warned");
        if (!Directory.Exists(folder)) feed.NewProject("Warned", Program(), "MoeSharp");
        string output = feed.Succeed(folder, "msbuild", "-t:MoeSharpCheckInstructionSet", $"-p:PublishAot={ahead}", $"-p:RuntimeIdentifier={runtime}", $"-p:IlcInstructionSet={instructions}", "-p:TreatWarningsAsErrors=false");
        Assert.Equal(warned, output.Contains("warning MOE0001", StringComparison.Ordinal));
    }

    [Fact(Explicit = true)]
    public void ToolInstallsAndRuns()
    {
        string folder = Directory.CreateDirectory(Path.Combine(feed.Folder, "tool")).FullName;
        string config = Path.Combine(folder, "nuget.config");
        File.WriteAllText(config, $"""<configuration><packageSources><clear /><add key="local" value="{feed.Feed}" /></packageSources></configuration>""");
        feed.Succeed(folder, "tool", "install", "MoeSharp.Cli", "--tool-path", folder, "--configfile", config);
        string tool = Path.Combine(folder, OperatingSystem.IsWindows() ? "moesharp.exe" : "moesharp");
        Assert.Contains("processor", feed.Succeed(tool, folder, ["info"]), StringComparison.Ordinal);
        string families = feed.Succeed(tool, folder, ["inspect", Repository.PathOf("samples/tiny-qwen3-moe-fp8")]);
        Assert.Contains("Qwen3", families, StringComparison.OrdinalIgnoreCase);
    }

    /// <summary>From the package, as its page shows it; the repository's README shows the same.</summary>
    private string Program()
    {
        string program = Assert.Single(Repository.Blocks(System.Text.Encoding.UTF8.GetString(feed.Read("MoeSharp", "README.md")), "csharp"));
        Assert.Equal(Assert.Single(Repository.Blocks(Repository.ReadText("README.md"), "csharp")), program);
        return program;
    }

    private static string PrintedInTheReadme() => Assert.Single(Repository.Blocks(Repository.ReadText("README.md"), "text")).ReplaceLineEndings();

    private static void CopySample(string folder)
    {
        string sample = Directory.CreateDirectory(Path.Combine(folder, "samples", "tiny-qwen3-moe-fp8")).FullName;
        foreach (string file in Directory.GetFiles(Repository.PathOf("samples/tiny-qwen3-moe-fp8"))) File.Copy(file, Path.Combine(sample, Path.GetFileName(file)));
    }

    internal static bool FindsLinker() =>
        Environment.GetEnvironmentVariable("PATH")!.Split(Path.PathSeparator).Any(d => File.Exists(Path.Combine(d, "clang")) || File.Exists(Path.Combine(d, "gcc")));
}
