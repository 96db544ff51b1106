using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>The tables of docs/settings.md are generated from the code. MOESHARP_RECORD_SETTINGS=1 writes them anew.</summary>
public partial class SettingsTests
{
    private const string Page = "docs/settings.md";

    [Fact]
    public void TablesAreThoseOfTheCode()
    {
        string recorded = Repository.ReadText(Page).ReplaceLineEndings("\n"), generated = SettingsPage.Render(recorded);
        if (Environment.GetEnvironmentVariable("MOESHARP_RECORD_SETTINGS") == "1") File.WriteAllText(Repository.PathOf(Page), recorded = generated);
        Assert.True(recorded == generated, $"Settings changed. Run this test with MOESHARP_RECORD_SETTINGS=1 and commit {Page}.\n{string.Join('\n', generated.Split('\n').Except(recorded.Split('\n')))}");
        foreach (string section in SettingsPage.Sections) Assert.Contains($"<!-- table: {section} -->\n| ", recorded, StringComparison.Ordinal);
    }

    [Fact]
    public void EnvironmentVariablesAreDescribed()
    {
        IEnumerable<string> read = Repository.Files(".cs").SelectMany(f => Variable().Matches(Repository.ReadText(f))).Select(m => m.Groups[1].Value);
        IEnumerable<string> described = Described().Matches(Repository.ReadText(Page)).Select(m => m.Groups[1].Value);
        Assert.Equal(read.Distinct().Order(StringComparer.Ordinal), described.Distinct().Order(StringComparer.Ordinal));
    }

    [GeneratedRegex(@"^\| `(MOESHARP_\w+)`", RegexOptions.Multiline)]
    private static partial Regex Described();

    [GeneratedRegex(@"GetEnvironmentVariable\(""(MOESHARP_\w+)""\)")]
    private static partial Regex Variable();
}
