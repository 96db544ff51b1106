using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;

namespace MoeSharp.Cli;

/// <summary>One verb of the tool: its options, examples that work, and what it does.</summary>
internal abstract class Verb : Command
{
    private readonly Option<bool> _json = new("--json") { Description = "Write one JSON object to stdout and nothing else there" };

    protected Verb(string name, string description, params string[] examples) : base(name, description)
    {
        Examples = examples;
        Add(_json);
        // On a thread of its own, so that Ctrl-C is noticed while a verb computes.
        SetAction((arguments, cancel) => Task.Run(() => Run(arguments, Open(arguments), cancel), cancel));
    }

    /// <summary>Command lines, shown below the options.</summary>
    public IReadOnlyList<string> Examples { get; }

    /// <summary>Does it; returns an <see cref="ExitCode"/>.</summary>
    protected abstract int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel);

    private Terminal Open(ParseResult arguments) =>
        new(arguments.InvocationConfiguration.Output, arguments.InvocationConfiguration.Error, arguments.GetValue(_json), (arguments.InvocationConfiguration as ToolConfiguration)?.IsWatched);
}

/// <summary>The library's help, then the verb's examples.</summary>
internal sealed class HelpWithExamples : SynchronousCommandLineAction
{
    public const string RootExample = "moesharp run samples/tiny-qwen3-moe-fp8 --layer 0 --tokens 8 --verify";

    private readonly HelpAction _usage = new() { MaxWidth = Terminal.PlainWidth };

    public override bool ClearsParseErrors => true;

    public override int Invoke(ParseResult parseResult)
    {
        _usage.Invoke(parseResult);
        TextWriter output = parseResult.InvocationConfiguration.Output;
        switch (parseResult.CommandResult.Command)
        {
            case Verb verb:
                output.WriteLine(verb.Examples.Count == 1 ? "Example:" : "Examples:");
                foreach (string example in verb.Examples) output.WriteLine($"  {example}");
                break;
            default:
                output.WriteLine("Example:");
                output.WriteLine($"  {RootExample}");
                output.WriteLine();
                output.WriteLine("Exit codes:");
                output.WriteLine("  0 ok, 1 a check failed, 2 bad usage or input, 130 cancelled");
                break;
        }
        output.WriteLine();
        return ExitCode.Ok;
    }
}
