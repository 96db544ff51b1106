using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Shows what a call would do and why: routing, kernels, memory, and predicted beside measured time.</summary>
internal sealed class ExplainVerb : Verb
{
    private const int DefaultTokens = 64;
    private readonly Argument<string?> _model = Inputs.OptionalModel("Folder of a checkpoint; or leave it out and give --shape");
    private readonly Option<int?> _layer = Inputs.Number("--layer", "L", "Decoder layer of MODEL; without it the first one with experts", 0);
    private readonly Option<BenchShape?> _shape = Inputs.Shape();
    private readonly Option<int?> _tokens = Inputs.Number("--tokens", "N", $"Tokens of the call, {DefaultTokens} when not given", 1);
    private readonly Option<string> _format = Inputs.RandomFormat();
    private readonly Option<string> _routing = Inputs.OneOf("--routing", "How popular the experts of --shape are", "uniform", "uniform", "zipf");
    private readonly Option<long?> _seed = Inputs.Seed("Seed of the hidden states of MODEL, or of the routing of --shape");
    private readonly Option<string> _backend = Inputs.Backend();
    private readonly Option<string> _activations = Inputs.Activations();
    private readonly Option<int?> _threads = Inputs.Threads();
    private readonly Option<string?> _kernel = Inputs.Kernel();

    public ExplainVerb() : base("explain",
        "Explain a call of a layer's routed experts: rows per expert, workspace, chosen kernels and tiles with the reason, and the time that a cost model predicts beside the measured one.",
        "moesharp explain samples/tiny-qwen3-moe-fp8 --tokens 64",
        "moesharp explain --shape 32,4,1024,512 --tokens 16 --routing zipf --json")
    {
        Add(_model);
        foreach (Option option in (Option[])[_layer, _shape, _tokens, _format, _routing, _seed, _backend, _activations, _threads, _kernel]) Add(option);
    }

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        Inputs.CheckSource(arguments, _model, _shape, _layer, _format, _routing);
        int threads = arguments.GetValue(_threads) ?? Environment.ProcessorCount;
        using var backend = new ChosenBackend(arguments.GetValue(_backend)!, arguments.GetValue(_threads), arguments.GetValue(_kernel));
        using ExplainCase layer = Open(arguments, backend, terminal, cancel);
        var report = new ExplainReport(layer, Time(layer, terminal, threads, cancel), threads, backend.Reason);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTables(terminal);
        return ExitCode.Ok;
    }

    private static TimedCall Time(ExplainCase layer, Terminal terminal, int threads, CancellationToken cancel)
    {
        TimedCall? timed = null;
        if (layer.Experts.Backend is CudaBackend gpu)
        {
            terminal.Track("Timing", 1, step => timed = GpuCallTimes.Of(layer, gpu, cancel));
            return timed!;
        }
        using Team? ownTeam = layer.Experts.Backend is CpuBackend ? null : new Team(threads);
        using var ceilings = new Ceilings(ownTeam ?? ((CpuBackend)layer.Experts.Backend).Team);
        var times = new CallTimes(layer, ceilings);
        terminal.Track("Timing", CallTimes.Rounds, step => times.Run(step, cancel));
        return times.Result(layer.Kernel, threads);
    }

    private ExplainCase Open(ParseResult arguments, ChosenBackend backend, Terminal terminal, CancellationToken cancel)
    {
        int tokens = arguments.GetValue(_tokens) ?? DefaultTokens;
        ActivationFormat? activations = Inputs.ActivationFormat(arguments.GetValue(_activations));
        if (arguments.GetValue(_model) is { } model)
            return terminal.Load("Loading", progress => ExplainCase.FromCheckpoint(
                model, arguments.GetValue(_layer), tokens, arguments.GetValue(_seed), new() { Activations = activations }, backend, progress, cancel));
        BenchLayer? layer = null;
        BenchShape shape = arguments.GetValue(_shape)!;
        WeightFormat format = Inputs.WeightFormat(arguments.GetValue(_format));
        terminal.Track("Filling random weights", 1, step => layer = BenchLayer.Random(shape, format, activations, backend.For(shape, format, activations, tokens), cancel, new LoadSteps(step)));
        var routing = arguments.GetValue(_routing) == "zipf" ? RoutingKind.Zipf : RoutingKind.Uniform;
        return ExplainCase.FromShape(layer!, routing, tokens, arguments.GetValue(_seed));
    }
}
