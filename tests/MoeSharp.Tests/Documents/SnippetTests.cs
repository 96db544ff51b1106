namespace MoeSharp.Tests;

/// <summary>C# that a page shows is C# that a test beside this one compiles and runs.</summary>
public class SnippetTests
{
    [Theory]
    [InlineData("docs/load-a-model.md", "LoadAModelTests")]
    [InlineData("docs/own-router.md", "OwnRouterTests")]
    [InlineData("src/MoeSharp.Cuda/README.md", "CudaReadmeTests")]
    public void SnippetsAreTested(string page, string test)
    {
        string source = Lines(Repository.ReadText($"tests/MoeSharp.Tests/Documents/{test}.cs"));
        string[] snippets = [.. Repository.Blocks(Repository.ReadText(page), "csharp").Select(Lines)];
        Assert.NotEmpty(snippets);
        Assert.All(snippets, snippet => Assert.True(source.Contains(snippet, StringComparison.Ordinal), $"{test}.cs does not run this part of {page}:\n{snippet}"));
    }

    [Fact]
    public void TheProgramOfOwnStreamIsTheSample() => Assert.Equal(
        Repository.ReadText("samples/OwnStream/Program.cs").ReplaceLineEndings("\n"),
        Assert.Single(Repository.Blocks(Repository.ReadText("docs/gpu-with-your-own-stream.md"), "csharp")));

    private static string Lines(string text) => string.Join('\n', text.Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries));
}
