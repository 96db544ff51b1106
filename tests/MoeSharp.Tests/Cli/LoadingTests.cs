using System.Text;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>What a user sees of loading, and that Ctrl-C ends it.</summary>
public class LoadingTests
{
    private static readonly string s_model = Repository.PathOf("samples/tiny-qwen3-moe-fp8");

    public static TheoryData<string> Commands =>
    [
        "run MODEL --layer 0 --tokens 2", "verify MODEL --layer 1 --tokens 2", "bench MODEL --layer 0 --tokens 1", "bench --shape 4,2,128,128 --tokens 1", "explain MODEL --tokens 2",
        "explain --shape 4,2,128,128 --tokens 2", "compare MODEL --layer 0 --tokens 2",
    ];

    [Theory, MemberData(nameof(Commands))]
    public void CtrlCWhileLoadingEndsTheVerbWithTheDocumentedCode(string command)
    {
        using var stop = new CancellationTokenSource();
        string words = command.StartsWith("verify", StringComparison.Ordinal) ? "finding tensors" : "laying out weights"; // verify's bar moves with experts
        using var error = new Watcher(words, stop.Cancel);
        var output = new StringWriter();
        int code = Tool.Run(Arguments(command), output, error, stop.Token, isWatched: true);
        Assert.True(code == ExitCode.Cancelled, $"'{command}' gave {code}: {error}");
        Assert.Equal("", output.ToString());
        Assert.EndsWith("moesharp: Cancelled.", error.ToString().TrimEnd());
    }

    [Theory]
    [InlineData("run MODEL --layer 0 --tokens 2", "Running ...")]
    [InlineData("compare MODEL --layer 0 --tokens 2", "Comparing ...")]
    public void NothingIsSaidOfLoadingWhereNobodyWatches(string command, string all)
    {
        ToolRun run = ToolRun.Of(Arguments(command));
        Assert.Equal(0, run.ExitCode);
        Assert.Equal(all, run.Error.Trim());
    }

    [Fact]
    public void ABarShowsLoadingWhereSomebodyWatches()
    {
        using var error = new Watcher("", () => { });
        Assert.Equal(ExitCode.Ok, Tool.Run(Arguments("run MODEL --layer 0 --tokens 2"), new StringWriter(), error, isWatched: true));
        Assert.Contains("Loading layer 0", error.ToString());
        Assert.Contains("laying out weights", error.ToString());
    }

    private static string[] Arguments(string command) => [.. command.Split(' ').Select(word => word == "MODEL" ? s_model : word)];

    /// <summary>Keeps what is written, and acts when words appear for the first time.</summary>
    private sealed class Watcher(string words, Action act) : StringWriter
    {
        private readonly StringBuilder _line = new();
        private bool _seen;

        public override void Write(char value) => Take(value.ToString());

        public override void Write(string? value) => Take(value ?? "");

        public override void Write(char[] buffer, int index, int count) => Take(new string(buffer, index, count));

        private void Take(string text)
        {
            base.GetStringBuilder().Append(text);
            _line.Append(text);
            if (_seen || !_line.ToString().Contains(words, StringComparison.Ordinal)) return;
            _seen = true;
            act();
        }
    }
}
