using System.Text.Json;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>One in-process run of the tool: its exit code and both streams.</summary>
public sealed record ToolRun(string Command, int ExitCode, string Output, string Error)
{
    public static ToolRun Of(params string[] arguments)
    {
        var output = new StringWriter();
        var error = new StringWriter();
        int code = Tool.Run(arguments, output, error);
        return new(string.Join(' ', arguments), code, output.ToString(), error.ToString());
    }

    /// <summary>The last line of stderr, when the run failed as every failure should: exit code 2, nothing on stdout, one sentence, no stack trace.</summary>
    public string Sentence()
    {
        Assert.True(ExitCode == 2, $"'{Command}' gave exit code {ExitCode}; stderr: {Error}");
        Assert.True(Output == "", $"'{Command}' failed but wrote to stdout: {Output}");
        string sentence = Error.TrimEnd().Split('\n')[^1];
        Assert.StartsWith("moesharp: ", sentence);
        Assert.EndsWith(".", sentence);
        Assert.DoesNotContain("   at ", Error);
        Assert.DoesNotContain("Parameter '", Error);
        Assert.DoesNotContain("defect", Error);
        return sentence;
    }

    /// <summary>stdout as the one JSON object that --json promises.</summary>
    public JsonElement Json(int exitCode = 0)
    {
        Assert.True(ExitCode == exitCode, $"'{Command}' gave exit code {ExitCode}; stderr: {Error}");
        using JsonDocument document = JsonDocument.Parse(Output);
        Assert.Equal(JsonValueKind.Object, document.RootElement.ValueKind);
        return document.RootElement.Clone();
    }
}
