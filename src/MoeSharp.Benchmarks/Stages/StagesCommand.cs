using System.CommandLine;
using MoeSharp.Cli;

namespace MoeSharp.Benchmarks;

/// <summary>Every kernel of the registry that this machine can run, on the same weights: whole calls and their stages, all in turn round after round.</summary>
internal sealed class StagesCommand : Command
{
    private readonly Option<BenchShape?> _shape = Inputs.Parsed<BenchShape?>("--shape", "NAME|E,K,H,I", "Sizes of the layer; without it qwen3-30b-a3b", null, BenchShape.Parse);
    private readonly Option<int[]?> _tokens = CompareCommand.TokenCounts();
    private readonly Option<string> _format = Inputs.OneOf("--format", "Format of the weights", "block128", "block128", "mxfp8", "bf16");
    private readonly Option<string> _activations = Inputs.Activations();
    private readonly Option<string> _kernels = new("--kernels") { HelpName = "NAME,...", Description = "Only these; without it all that this machine supports" };
    private readonly Option<int?> _rounds = Inputs.Number("--rounds", "N", "Rounds; without it 4", 1);
    private readonly Option<int[]?> _threads = Inputs.Parsed<int[]?>("--threads", "N,N,...", "Threads, a table each; without it one per processor", null,
        text => text.Split(',').Select(part => (int)Inputs.Whole("--threads", part, 1, 1024)).ToArray());

    public StagesCommand() : base("stages", "Times each kernel that this machine supports, and the stages of its calls.")
    {
        foreach (Option option in (Option[])[_shape, _tokens, _format, _activations, _kernels, _rounds, _threads]) Add(option);
        SetAction((parsed, cancel) => Task.Run(() => Measure(parsed, cancel), cancel));
    }

    private void Measure(ParseResult arguments, CancellationToken cancel)
    {
        BenchShape shape = arguments.GetValue(_shape) ?? BenchShape.Parse("qwen3-30b-a3b");
        int[] tokens = CompareCommand.Tokens(arguments, _tokens);
        WeightFormat format = arguments.GetValue(_format) switch { "mxfp8" => WeightFormat.MxFp8, "bf16" => WeightFormat.Bf16, _ => WeightFormat.Block128 };
        var options = new ExpertsOptions { TopK = shape.TopK, Activation = shape.Activation, Activations = Inputs.ActivationFormat(arguments.GetValue(_activations)) };
        using ExpertWeights weights = SyntheticWeights.Create(shape, format, cancel);
        int[] threads = arguments.GetValue(_threads) is { Length: > 0 } given ? given : [Environment.ProcessorCount];
        IGemmKernel[] kernels = Chosen(arguments.GetValue(_kernels));
        foreach (int count in threads) Measure(shape, options, weights, kernels, tokens, count, arguments.GetValue(_rounds) ?? 4, cancel);
    }

    private static void Measure(
        BenchShape shape, ExpertsOptions options, ExpertWeights weights, IGemmKernel[] kernels, int[] tokens, int threads, int rounds, CancellationToken cancel)
    {
        var held = new Stack<IDisposable>();
        try
        {
            var rows = new List<StageRow>();
            foreach (IGemmKernel kernel in kernels)
            {
                var backend = new CpuBackend(threads, kernel);
                held.Push(backend);
                var experts = new FusedExperts(options, weights, backend);
                held.Push(experts);
                rows.AddRange(tokens.Select(t => new StageRow(kernel, experts, weights, t)));
            }
            using var team = new Team(threads);
            using var ceilings = new Ceilings(team);
            long workspaceBytes = held.OfType<FusedExperts>().Max(e => e.WorkspaceBytes(tokens.Max()));
            using (var workspace = new Workspace(workspaceBytes)) Run(rows, ceilings, workspace, rounds, cancel);
            Show(shape, rows, ceilings, threads);
        }
        finally
        {
            while (held.TryPop(out IDisposable? owned)) owned.Dispose();
        }
    }

    private static IGemmKernel[] Chosen(string? names)
    {
        IGemmKernel[] supported = [.. GemmKernels.All.Where(k => k.IsSupported)];
        if (names is null) return supported;
        return [.. names.Split(',').Select(name => supported.FirstOrDefault(k => k.Name == name)
            ?? throw new ArgumentException($"--kernels names '{name}'; this machine supports {string.Join(", ", supported.Select(k => k.Name))}."))];
    }

    private static void Run(List<StageRow> rows, Ceilings ceilings, Workspace workspace, int rounds, CancellationToken cancel)
    {
        for (int round = 0; round <= rounds; round++)
        {
            Console.Error.WriteLine(round == 0 ? "warm-up" : $"round {round} of {rounds}");
            foreach (StageRow row in rows)
            {
                cancel.ThrowIfCancellationRequested();
                row.Round(workspace, record: round > 0);
            }
            ceilings.Round();
        }
    }

    private static void Show(BenchShape shape, List<StageRow> rows, Ceilings ceilings, int threads)
    {
        Console.WriteLine($"{shape.Name} on {Machine.ProcessorName()}, {Units.Plural(threads, "thread")}; the last columns are shares of a call");
        var lines = new List<string[]> { (string[])["kernel", "T", "ms", "GB/s", "of read", "GFLOP/s", "of peak", .. StageTimes.Names.Select(name => name.Split('+')[0])] };
        foreach (StageRow row in rows)
        {
            double bandwidth = row.Bytes / row.Milliseconds / 1e6, rate = row.Flops / row.Milliseconds / 1e6;
            lines.Add([
                row.Kernel.Name, Units.Count(row.Tokens), Units.Number(row.Milliseconds), Units.Number(bandwidth), Units.Percent(bandwidth / ceilings.ReadGBPerS),
                Units.Number(rate), Units.Percent(rate / ceilings.PeakGFlopPerS(row.Kernel)), .. StageTimes.Names.Select((_, stage) => Units.Percent(row.Stage(stage) / row.Milliseconds))]);
        }
        int[] widths = [.. lines[0].Select((_, column) => lines.Max(line => line[column].Length))];
        foreach (string[] line in lines) Console.WriteLine(string.Join("  ", line.Select((cell, c) => c == 0 ? cell.PadRight(widths[c]) : cell.PadLeft(widths[c]))));
        Console.WriteLine($"Ceilings, measured between the rounds: {ceilings.InWords()}.");
    }
}
