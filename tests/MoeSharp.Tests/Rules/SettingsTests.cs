using System.Reflection;
using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>docs/settings.md names every setting, and no other.</summary>
public partial class SettingsTests
{
    private static readonly string s_page = Repository.ReadText("docs/settings.md");

    public static TheoryData<Type> Records => [typeof(MoeLayerOptions), typeof(LayerSelection), typeof(ExpertsOptions), typeof(RouterOptions)];

    [Theory]
    [MemberData(nameof(Records))]
    public void RecordsAreDescribed(Type record)
    {
        string section = Regex.Match(s_page, $@"^## {record.Name}\n.*?(?=^## |\z)", RegexOptions.Multiline | RegexOptions.Singleline).Value;
        IEnumerable<string> rows = section.Split('\n').Where(l => l.StartsWith("| `", StringComparison.Ordinal));
        IEnumerable<string> described = rows.SelectMany(r => CodeSpan().Matches(r.Split('|')[1])).Select(m => m.Groups[1].Value);
        IEnumerable<string> settable = record.GetProperties(BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly)
            .Where(p => p.SetMethod is not null).Select(p => p.Name);
        Assert.Equal(settable.Order(StringComparer.Ordinal), described.Order(StringComparer.Ordinal));
    }

    [Theory]
    [InlineData("inspect")]
    [InlineData("doctor")]
    [InlineData("run")]
    [InlineData("verify")]
    [InlineData("bench")]
    [InlineData("quantize")]
    [InlineData("dequantize")]
    [InlineData("info")]
    public void OptionsOfTheToolAreDescribed(string verb)
    {
        string row = s_page.Split('\n').Single(l => l.StartsWith($"| `{verb}` |", StringComparison.Ordinal));
        (int exitCode, string help) = Repository.Run("MoeSharp.Cli", [verb, "--help"]);
        Assert.True(exitCode == 0, help);
        IEnumerable<string> offered = OptionLine().Matches(help).Select(m => m.Groups[1].Value).Except(["--help", "--version"]);
        Assert.Equal(offered.Order(StringComparer.Ordinal), OptionSpan().Matches(row).Select(m => m.Groups[1].Value).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void EnvironmentVariablesAreDescribed()
    {
        IEnumerable<string> read = Repository.Files(".cs").SelectMany(f => Variable().Matches(Repository.ReadText(f))).Select(m => m.Groups[1].Value);
        IEnumerable<string> described = CodeSpan().Matches(s_page).Select(m => m.Groups[1].Value).Where(n => n.StartsWith("MOESHARP_", StringComparison.Ordinal));
        Assert.Equal(read.Distinct().Order(StringComparer.Ordinal), described.Distinct().Order(StringComparer.Ordinal));
    }

    [GeneratedRegex(@"`(\w+)`")]
    private static partial Regex CodeSpan();

    [GeneratedRegex(@"`(--[\w-]+)`")]
    private static partial Regex OptionSpan();

    [GeneratedRegex(@"^ {2,}(?:-\w, )?(?:-[?h], )*(--[\w-]+)", RegexOptions.Multiline)]
    private static partial Regex OptionLine();

    [GeneratedRegex(@"GetEnvironmentVariable\(""(MOESHARP_\w+)""\)")]
    private static partial Regex Variable();
}
