using System.Text.Json;

namespace MoeSharp.Tests;

/// <summary>What the audit promises as a whole: clean samples, its JSON and exit codes, its page.</summary>
public sealed class DoctorTests : PlantedFindings
{
    public static TheoryData<string> Folders => new(SampleCheckpoint.Folders());

    [Theory]
    [MemberData(nameof(Folders))]
    public void SamplesAreClean(string folder)
    {
        ToolRun run = ToolRun.Of("doctor", folder, "--json");
        Assert.True(run.ExitCode == 0, run.Output + run.Error);
        Assert.True(run.Json().GetProperty("findings").GetArrayLength() == 0, run.Output);
        Assert.Contains("Nothing found.", ToolRun.Of("doctor", folder).Output);
    }

    [Fact]
    public void JsonHasExactlyThePromisedMembersAndExitCodes()
    {
        Stored[Scale5] = ("F32", [1, 2], [.. BitConverter.GetBytes(1f), .. BitConverter.GetBytes(1e-23f)]);
        Save();
        ToolRun warning = ToolRun.Of("doctor", Folder.Root, "--json");
        JsonElement finding = Assert.Single(warning.Json().GetProperty("findings").EnumerateArray().ToArray());
        Assert.Equal(["code", "severity", "file", "tensor", "layer", "expert", "block", "message"], finding.EnumerateObject().Select(p => p.Name));
        Assert.Equal($"scale-tiny warning {Shard} {Scale5} 1 5 [0,1]",
            $"{finding.GetProperty("code")} {finding.GetProperty("severity")} {finding.GetProperty("file")} {finding.GetProperty("tensor")} " +
            $"{finding.GetProperty("layer")} {finding.GetProperty("expert")} {string.Concat(finding.GetProperty("block").GetRawText().Where(c => !char.IsWhiteSpace(c)))}");
        Stored.Remove(Gate5);
        Save();
        Assert.Equal(1, ToolRun.Of("doctor", Folder.Root).ExitCode);
        File.WriteAllText(Folder["config.json"], "{");
        Assert.Contains("config.json", ToolRun.Of("doctor", Folder.Root).Sentence());
        File.Delete(Folder["config.json"]);
        Assert.Contains("config.json", ToolRun.Of("doctor", Folder.Root).Sentence());
        Assert.Contains("does not exist", ToolRun.Of("doctor", Folder["none"]).Sentence());
    }

    /// <summary>The page lists each code with its severity, and a file of this folder plants each.</summary>
    [Fact]
    public void EveryCodeIsDocumentedAndPlanted()
    {
        string page = Repository.ReadText("docs/doctor.md");
        string tests = string.Concat(Directory.GetFiles(Repository.PathOf("tests/MoeSharp.Tests/Checkpoints/Doctor")).Select(File.ReadAllText));
        string[] rows = [.. page.Split('\n').Where(l => l.StartsWith("| `", StringComparison.Ordinal))];
        Assert.Equal(FindingCode.All.Select(c => $"| `{c.Name}` | {(c.Severity == Severity.Error ? "error" : "warning")} | {c.Why} | {c.Remedy} |"), rows);
        Assert.Equal(FindingCode.All.Count, FindingCode.All.Select(c => c.Name).Distinct().Count());
        foreach (FindingCode code in FindingCode.All)
            Assert.True(tests.Contains($"\"{code.Name}\"", StringComparison.Ordinal), $"{code.Name} is not planted.");
    }
}
