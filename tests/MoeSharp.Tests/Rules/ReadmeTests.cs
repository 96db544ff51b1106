using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>The README's quick start and its program are what the gate and the samples run.</summary>
public partial class ReadmeTests
{
    [Fact]
    public void QuickStartHasTwoBlocks()
    {
        string[] blocks = [.. Repository.Blocks(QuickStart(), "bash")];
        Assert.Equal(2, blocks.Length);
        Assert.StartsWith(Repository.Tool + "run samples/", blocks[0], StringComparison.Ordinal);
        Assert.Contains("--verify", blocks[0], StringComparison.Ordinal);
        Assert.Equal("dotnet test -c Release", blocks[1].Trim());
        Assert.Contains(blocks[1].Trim(), Repository.ReadText(".ci/run"), StringComparison.Ordinal);
    }

    [Fact]
    public void ProgramIsTheSample()
    {
        string block = Assert.Single(Repository.Blocks(Repository.ReadText("README.md"), "csharp"));
        Assert.Equal(Repository.ReadText("samples/Minimal/Program.cs").ReplaceLineEndings("\n"), block);
        Assert.InRange(block.Split('\n').Length, 5, 25);
    }

    [Fact]
    public void SampleRuns()
    {
        (int exitCode, string output) = Repository.Run("Minimal", []);
        Assert.True(exitCode == 0, output);
        Assert.Contains("4 tokens", output, StringComparison.Ordinal);
    }

    private static string QuickStart()
    {
        Match section = QuickStartSection().Match(Repository.ReadText("README.md"));
        Assert.True(section.Success, "README.md has no section \"Quick start\".");
        return section.Value;
    }

    [GeneratedRegex(@"^## Quick start\n.*?(?=^## )", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex QuickStartSection();
}
