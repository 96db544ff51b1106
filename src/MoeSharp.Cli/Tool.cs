using System.CommandLine;
using System.CommandLine.Help;

namespace MoeSharp.Cli;

/// <summary>The command line as a function: arguments and two writers in, an exit code out.</summary>
internal static class Tool
{
    /// <summary>How long a verb may take to stop after Ctrl-C: a shard on its way to the disk cannot.</summary>
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(10);

    /// <summary>Parses and runs one command line; whatever goes wrong becomes one sentence on <paramref name="error"/>.</summary>
    /// <param name="arguments">As typed.</param>
    /// <param name="output">Takes the answer.</param>
    /// <param name="error">Takes progress and complaints.</param>
    /// <param name="cancel">As Ctrl-C does.</param>
    /// <param name="isWatched">Whether somebody watches <paramref name="error"/>; null asks the console.</param>
    public static int Run(string[] arguments, TextWriter output, TextWriter error, CancellationToken cancel = default, bool? isWatched = null)
    {
        ParseResult parsed = Root().Parse(arguments, new ParserConfiguration { ResponseFileTokenReplacer = null });
        if (parsed.Errors.Count > 0 && parsed.Action is not { ClearsParseErrors: true })
            return Fail(error, $"{Complaint(parsed)} See '{Name(parsed)} --help'.");
        var configuration = new ToolConfiguration
        {
            Output = output,
            Error = error,
            EnableDefaultExceptionHandler = false,
            ProcessTerminationTimeout = s_patience,
            IsWatched = isWatched,
        };
        try
        {
            return parsed.InvokeAsync(configuration, cancel).GetAwaiter().GetResult();
        }
        catch (Exception failure)
        {
            return Fail(error, failure is AggregateException { InnerException: { } inner } ? inner : failure);
        }
    }

    internal static RootCommand Root()
    {
        var root = new RootCommand("Runs, checks and times the mixture-of-experts layers of large language models, straight from their FP8 checkpoints.")
        {
            HelpName = "moesharp",
        };
        root.Add(new InspectVerb());
        root.Add(new DoctorVerb());
        root.Add(new RunVerb());
        root.Add(new VerifyVerb());
        root.Add(new CompareVerb());
        root.Add(new ExplainVerb());
        root.Add(new BenchVerb());
        root.Add(new QuantizeVerb());
        root.Add(new DequantizeVerb());
        root.Add(new InfoVerb());
        root.Options.OfType<HelpOption>().Single().Action = new HelpWithExamples();
        return root;
    }

    /// <summary>The first error of parsing, in words of the tool's own where no verb was understood.</summary>
    private static string Complaint(ParseResult parsed)
    {
        if (parsed.CommandResult.Command is not RootCommand root) return OneLine(parsed.Errors[0].Message);
        string verbs = string.Join(", ", root.Subcommands.Select(verb => verb.Name));
        return parsed.UnmatchedTokens.Count == 0 ? $"A verb is needed: {verbs}." : $"There is no verb '{parsed.UnmatchedTokens[0]}'; use {verbs}.";
    }

    private static string Name(ParseResult parsed) => parsed.CommandResult.Command is Verb verb ? $"moesharp {verb.Name}" : "moesharp";

    private static int Fail(TextWriter error, Exception failure)
    {
        switch (failure)
        {
            case OperationCanceledException:
                Fail(error, failure.InnerException is OperationCanceledException ? OneLine(failure.Message) : "Cancelled."); // the tool's own say what is left behind
                return ExitCode.Cancelled;
            case MoeSharpException or ArgumentException or IOException or UnauthorizedAccessException or OutOfMemoryException:
                return Fail(error, WithoutParameterName(failure));
            default:
                return Fail(error, $"This is a defect of moesharp, please report it: {failure.GetType().Name}: {OneLine(failure.Message)}");
        }
    }

    private static int Fail(TextWriter error, string sentence)
    {
        error.WriteLine($"moesharp: {sentence}{(sentence.EndsWith('.') ? "" : ".")}"); // the system's own have no full stop
        return ExitCode.BadInput;
    }

    /// <summary>.NET appends the parameter's name and value to argument errors; they mean nothing to who typed a command.</summary>
    private static string WithoutParameterName(Exception failure)
    {
        string message = OneLine(failure.Message);
        int suffix = message.IndexOf(" (Parameter '", StringComparison.Ordinal);
        return failure is ArgumentException && suffix > 0 ? message[..suffix] : message;
    }

    private static string OneLine(string message) => string.Join(' ', message.Split((char[])['\r', '\n', '\t'], StringSplitOptions.RemoveEmptyEntries));
}

/// <summary>What verbs hear from who runs the tool.</summary>
internal sealed class ToolConfiguration : InvocationConfiguration
{
    /// <summary>Whether somebody watches the progress; null asks the console.</summary>
    public bool? IsWatched { get; init; }
}
