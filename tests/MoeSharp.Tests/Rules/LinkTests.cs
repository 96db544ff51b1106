using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>Documents point at things that exist.</summary>
public partial class LinkTests
{
    public static TheoryData<string> Documents => new(Repository.Files(".md"));

    [Theory]
    [MemberData(nameof(Documents))]
    public void LinksResolve(string document)
    {
        string text = WithoutBlocks(document);
        foreach (string target in Link().Matches(text).Select(m => m.Groups[1].Value))
        {
            if (target.Contains("://", StringComparison.Ordinal) || target.StartsWith("mailto:", StringComparison.Ordinal)) continue;
            string[] parts = target.Split('#', 2);
            string path = parts[0].Length == 0 ? document : Path.Combine(Path.GetDirectoryName(document)!, parts[0]);
            Assert.True(Path.Exists(Repository.PathOf(path)), $"{document} links to {target}, which does not exist.");
            if (parts.Length == 2) Assert.True(Anchors(path).Contains(parts[1]), $"{document} links to {target}, but {path} has no such heading.");
        }
    }

    [Theory]
    [MemberData(nameof(Documents))]
    public void PathsNamedInCodeSpansExist(string document)
    {
        foreach (string path in CodeSpan().Matches(WithoutBlocks(document)).Select(m => m.Groups[1].Value))
            Assert.True(Path.Exists(Repository.PathOf(path)), $"{document} names `{path}`, which does not exist.");
    }

    [Fact]
    public void EveryPageIsReachableFromTheReadme()
    {
        string readme = Repository.ReadText("README.md");
        foreach (string page in Repository.Files(".md").Where(f => f.StartsWith("docs/", StringComparison.Ordinal) && f.Count(c => c == '/') == 1))
            Assert.True(readme.Contains($"({page})", StringComparison.Ordinal), $"README.md does not link to {page}.");
    }

    private static string WithoutBlocks(string document) => Block().Replace(Repository.ReadText(document), "");

    /// <summary>Headings as a Git host turns them into anchors: lower case, punctuation dropped, blanks to hyphens.</summary>
    private static HashSet<string> Anchors(string document) =>
        [.. Heading().Matches(Repository.ReadText(document)).Select(m => Punctuation().Replace(m.Groups[1].Value.Trim().ToLowerInvariant(), "").Replace(' ', '-'))];

    [GeneratedRegex(@"\]\(([^)\s]+)\)")]
    private static partial Regex Link();

    /// <summary>`src/...` and the like, without placeholders (capitals after the folder may be names; * and &lt; are not).</summary>
    [GeneratedRegex(@"`((?:src|tests|docs|samples|benchmarks|kernels|\.ci)/[A-Za-z0-9_.\-/]*)`")]
    private static partial Regex CodeSpan();

    [GeneratedRegex(@"^#+ (.+)$", RegexOptions.Multiline)]
    private static partial Regex Heading();

    [GeneratedRegex(@"[^\w\- ]")]
    private static partial Regex Punctuation();

    [GeneratedRegex(@"^```.*?^```", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex Block();
}
