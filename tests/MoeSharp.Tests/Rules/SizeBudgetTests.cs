using System.Text.RegularExpressions;

namespace MoeSharp.Tests;

/// <summary>Small on purpose: reports the sizes of the source and fails where a file has outgrown its reader.</summary>
public partial class SizeBudgetTests(ITestOutputHelper report)
{
    private const int MedianFile = 150, LookAgain = 400, LargestFile = 800, MethodP90 = 40, LongLine = 150, RecordedBytes = 20_000_000;

    private static string[] Sources => [.. Repository.Files(".cs").Where(f => f.StartsWith("src/", StringComparison.Ordinal))];

    [Fact]
    public void FilesStaySmall()
    {
        (string File, int Lines)[] sizes = [.. Sources.Select(f => (File: f, Lines: Lines(f).Length)).OrderBy(s => s.Lines)];
        int median = sizes[sizes.Length / 2].Lines;
        report.WriteLine($"source: {sizes.Length} files, {sizes.Sum(s => s.Lines):N0} lines; median {median} (budget {MedianFile}), largest {sizes[^1].Lines} (limit {LargestFile})");
        foreach ((string file, int lines) in sizes.Where(s => s.Lines > LookAgain)) report.WriteLine($"  look again: {file} has {lines} lines");
        Assert.True(median <= MedianFile, $"The median source file has {median} lines; the budget is {MedianFile}.");
        Assert.True(sizes[^1].Lines <= LargestFile, $"{sizes[^1].File} has {sizes[^1].Lines} lines; split it, no file may exceed {LargestFile}.");
    }

    [Fact]
    public void MethodsStaySmall()
    {
        (string Name, int Lines)[] bodies = [.. Sources.SelectMany(Bodies).OrderBy(b => b.Lines)];
        int p90 = bodies[bodies.Length * 9 / 10].Lines;
        report.WriteLine($"methods with a block: {bodies.Length}; median {bodies[bodies.Length / 2].Lines} lines, p90 {p90} (budget {MethodP90}), longest {bodies[^1].Lines} ({bodies[^1].Name})");
        Assert.True(p90 <= MethodP90, $"One method in ten has more than {p90} lines; the budget is {MethodP90}.");
    }

    [Fact]
    public void LinesAndNamesAreReported()
    {
        int longLines = Sources.Sum(f => Lines(f).Count(l => l.Length > LongLine));
        int total = Sources.Sum(f => Lines(f).Length);
        report.WriteLine($"lines over {LongLine} characters: {longLines} of {total:N0}");
        Assert.True(longLines * 10 < total, $"{longLines} of {total} lines exceed {LongLine} characters; one in ten is too many.");
    }

    [Fact]
    public void FilesAreNamedForWhatTheyDo()
    {
        foreach (string file in Repository.Files(".cs"))
            Assert.False(Vague().IsMatch(Path.GetFileNameWithoutExtension(file)), $"{file}: say in its name what it does; Manager, Helper, Util, Common and Misc do not.");
    }

    [Fact]
    public void FoldersStayShallow()
    {
        foreach (string file in Sources)
            Assert.True(file.Count(c => c == '/') <= 4, $"{file} lies deeper than two folders below its assembly.");
    }

    [Fact]
    public void RecordedDataStaysSmall()
    {
        (string File, long Bytes)[] data = [.. Repository.Files(".safetensors").Select(f => (f, new FileInfo(Repository.PathOf(f)).Length))];
        report.WriteLine($"recorded data: {data.Length} files, {data.Sum(d => d.Bytes):N0} bytes (limit {RecordedBytes:N0})");
        Assert.NotEmpty(data);
        Assert.True(data.Sum(d => d.Bytes) <= RecordedBytes, $"Checkpoints and vectors take {data.Sum(d => d.Bytes):N0} bytes; the limit is {RecordedBytes:N0}.");
    }

    private static string[] Lines(string file) => File.ReadAllLines(Repository.PathOf(file));

    /// <summary>Member bodies. The formatter puts a member's braces on lines of their own at four blanks, or eight in a nested type.</summary>
    private static IEnumerable<(string Name, int Lines)> Bodies(string file)
    {
        string[] lines = Lines(file);
        for (int i = 1; i < lines.Length; i++)
        {
            string line = lines[i];
            if (line is not ("    {" or "        {") || !Signature().IsMatch(lines[i - 1])) continue;
            int end = Array.IndexOf(lines, line.Replace('{', '}'), i);
            if (end > i) yield return ($"{Path.GetFileName(file)}:{i}", end - i - 1);
        }
    }

    [GeneratedRegex("Manager|Helper|Util|Common|Misc")]
    private static partial Regex Vague();

    /// <summary>The end of a method's head: its parameters or a constraint, and not a statement with a block.</summary>
    [GeneratedRegex(@"^\s+(?!if|for|foreach|while|using|lock|switch|fixed|else|catch)\S.*(\)|: unmanaged|: struct)$")]
    private static partial Regex Signature();
}
