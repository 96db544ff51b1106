using System.CommandLine;
using MoeSharp.Cli;
using Spectre.Console;

namespace MoeSharp.Benchmarks;

/// <summary>The routed experts of a layer beside a peer, in one interleaved run.</summary>
internal sealed class CompareCommand
{
    private readonly Option<string> _peer = Inputs.OneOf("--peer", "What to compare with", "onnxruntime", "onnxruntime");
    private readonly Option<BenchShape?> _shape = Inputs.Parsed<BenchShape?>("--shape", "NAME|E,K,H,I",
        $"Sizes of the layer; without it qwen3-30b-a3b; names: {string.Join(", ", BenchShape.Named.Select(shape => shape.Name))}", null, BenchShape.Parse);
    private readonly Option<int[]?> _tokens = TokenCounts();
    private readonly Option<int?> _rounds = Inputs.Number("--rounds", "N", "Rounds, of which the median counts; without it 4", 1);
    private readonly Option<int?> _threads = Inputs.Number("--threads", "N", "Threads of each side; without it one per processor", 1);
    private readonly Option<string> _out = new("--out") { HelpName = "PATH", Description = "Also write PATH.json, PATH.md and a plot; runs of other shapes in them stay" };

    public static int Run(string[] arguments)
    {
        var command = new CompareCommand();
        var root = new RootCommand("Times the routed experts of a layer beside another implementation. 'micro' as the first word starts BenchmarkDotNet on the parts instead.")
        {
            command._peer, command._shape, command._tokens, command._rounds, command._threads, command._out, new StagesCommand(),
        };
        root.SetAction((parsed, cancel) => Task.Run(() => command.Compare(parsed, cancel), cancel));
        try
        {
            return root.Parse(arguments).Invoke(new InvocationConfiguration { EnableDefaultExceptionHandler = false });
        }
        catch (Exception refused) when (refused is ArgumentException or MoeSharpException or InvalidOperationException or IOException)
        {
            Console.Error.WriteLine(refused.Message);
            return ExitCode.BadInput;
        }
    }

    internal static Option<int[]?> TokenCounts() =>
        Inputs.Parsed<int[]?>("--tokens", "T,T,...", "Token counts, one row each; without it 1,4,16,64,256,1024", null,
            text => text.Split(',').Select(part => (int)Inputs.Whole("--tokens", part, 1, 1 << 20)).ToArray());

    internal static int[] Tokens(ParseResult arguments, Option<int[]?> option) => arguments.GetValue(option) is { Length: > 0 } given ? given : [1, 4, 16, 64, 256, 1024];

    private void Compare(ParseResult arguments, CancellationToken cancel)
    {
        BenchShape shape = arguments.GetValue(_shape) ?? BenchShape.Parse("qwen3-30b-a3b");
        int threads = arguments.GetValue(_threads) ?? Environment.ProcessorCount;
        Console.Error.WriteLine($"{shape.Name}: filling random weights, giving them to both sides");
        using var comparison = new Comparison(shape, (layer, n) => new OnnxRuntimePeer(layer.Shape, layer.Weights, n), Tokens(arguments, _tokens), threads, cancel);
        ComparisonRun run = comparison.Run(arguments.GetValue(_rounds) ?? 4, step => Console.Error.WriteLine($"{shape.Name}: {step}"), cancel);
        Show(run, new Terminal(Console.Out, Console.Error, json: false));
        if (arguments.GetValue(_out) is { } path) ResultsFile.Add(path, run);
    }

    private static void Show(ComparisonRun run, Terminal terminal)
    {
        terminal.WriteLine($"{run.Shape}: {run.Sizes}");
        terminal.WriteLine($"{Machine.ProcessorName()}, {Units.Plural(run.Threads, "thread")} each; ours: {run.Kernel}; peer: {run.Peer} {run.PeerFormat}");
        var table = new Table().Border(TableBorder.Simple);
        foreach (string column in (string[])["tokens", "ms", "GB/s", "GFLOP/s", "peer ms", "GB/s", "GFLOP/s", "ratio"]) table.AddColumn(new TableColumn(column).RightAligned());
        foreach (ContestResult row in run.Results) table.AddRow(ResultsFile.Cells(run, row));
        terminal.Write(table);
        terminal.WriteLine($"Ceilings, measured between the rounds: {ResultsFile.Ceilings(run)}.");
        terminal.WriteLine($"Relative error against BF16 activations: ours {Units.Error(run.OurError)}, peer {Units.Error(run.PeerError)}.");
    }
}
