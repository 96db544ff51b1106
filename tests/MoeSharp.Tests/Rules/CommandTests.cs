namespace MoeSharp.Tests;

/// <summary>Commands that documents show in bash blocks run as they stand.</summary>
public class CommandTests
{
    /// <summary>Commands that a test cannot run inside itself; <c>.ci/run</c> or a person does.</summary>
    private static readonly string[] NotFromHere = ["dotnet test -c Release", "dotnet run -c Release --project tests/MoeSharp.Tests", "dotnet publish -c Release", ".ci/run"];

    /// <summary>Every command line of every bash block, except those of <see cref="NotFromHere"/>.</summary>
    public static TheoryData<string> Commands =>
        new(Repository.Files(".md").SelectMany(f => Repository.Blocks(Repository.ReadText(f), "bash")).SelectMany(Lines)
            .Where(line => !NotFromHere.Any(n => line.StartsWith(n, StringComparison.Ordinal))).Distinct());

    [Theory]
    [MemberData(nameof(Commands))]
    public void CommandRuns(string command)
    {
        Assert.StartsWith(Repository.Tool, command, StringComparison.Ordinal);
        (int exitCode, string output) = Repository.Run("MoeSharp.Cli", command[Repository.Tool.Length..].Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.True(exitCode == 0, $"{command}\nended with {exitCode}:\n{output}");
        Assert.NotEmpty(output);
    }

    private static IEnumerable<string> Lines(string block) =>
        block.Replace("\\\n", " ", StringComparison.Ordinal).Split('\n').Select(l => l.Trim()).Where(l => l.Length > 0 && l[0] != '#');
}
