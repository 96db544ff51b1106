using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Times the routed experts of a layer, beside what this machine could do at best.</summary>
internal sealed class BenchVerb : Verb
{
    private readonly Argument<string?> _model = Inputs.OptionalModel("Folder of a checkpoint; or leave it out and give --shape");
    private readonly Option<int?> _layer = Inputs.Number("--layer", "L", "Decoder layer of MODEL; without it the first one with experts", 0);
    private readonly Option<BenchShape?> _shape = Inputs.Shape();
    private readonly Option<int[]?> _tokens = Inputs.Parsed<int[]?>("--tokens", "T,T,...", "Token counts, one row each; without it 1,8,64,512", null,
        text => text.Split(',').Select(part => (int)Inputs.Whole("--tokens", part, 1, 1 << 20)).ToArray());
    private readonly Option<string> _format = Inputs.RandomFormat();
    private readonly Option<string> _backend = Inputs.Backend();
    private readonly Option<string> _activations = Inputs.Activations();
    private readonly Option<int?> _threads = Inputs.Threads();
    private readonly Option<string?> _kernel = Inputs.Kernel();
    private readonly Option<string> _routing = Inputs.OneOf("--routing", "How popular experts are", "uniform", "uniform", "zipf");
    private readonly Option<long?> _seed = Inputs.Seed("Seed of the first routing; without it 1000 + T (uniform) or 2000 + T (zipf)");

    private readonly Option<string?> _plot = Picture.Option("time over tokens and the roofline");

    public BenchVerb() : base("bench", "Time the routed experts of a layer. Every repetition routes with a new seed, so that weights come from memory and not from a cache.",
        "moesharp bench samples/tiny-qwen3-moe-fp8 --layer 0 --tokens 1,8",
        "moesharp bench --shape 32,4,1024,512 --tokens 1,16 --routing zipf --plot bench.svg")
    {
        Add(_model);
        foreach (Option option in (Option[])[_layer, _shape, _tokens, _format, _backend, _activations, _threads, _kernel, _routing, _seed, _plot]) Add(option);
    }

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        Inputs.CheckSource(arguments, _model, _shape, _layer, _format);
        string? plot = arguments.GetValue(_plot);
        if (plot is not null) Picture.CheckWritable(plot);
        int[] tokens = arguments.GetValue(_tokens) is { Length: > 0 } given ? given : [1, 8, 64, 512]; // an array that was not given is empty, not null
        var routing = arguments.GetValue(_routing) == "zipf" ? RoutingKind.Zipf : RoutingKind.Uniform;
        int threads = arguments.GetValue(_threads) ?? Environment.ProcessorCount;
        using var backend = new ChosenBackend(arguments.GetValue(_backend)!, arguments.GetValue(_threads), arguments.GetValue(_kernel));
        using BenchLayer layer = Open(arguments, backend.Backend, terminal, cancel);
        BenchCase[] cases = [.. tokens.Select(t => new BenchCase(layer, t, routing, arguments.GetValue(_seed)))];
        using Team? ownTeam = layer.Experts.Backend is CpuBackend ? null : new Team(threads);
        using var ceilings = new Ceilings(ownTeam ?? ((CpuBackend)layer.Experts.Backend).Team);
        var rounds = new BenchRounds(layer, cases, ceilings);
        terminal.Track("Timing", rounds.Steps, step => rounds.Run(step, cancel));
        if (plot is not null) BenchPicture.Save(plot, layer, cases, ceilings);
        var report = new BenchReport(layer, cases, ceilings, threads);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTable(terminal);
        return ExitCode.Ok;
    }

    private BenchLayer Open(ParseResult arguments, IExpertsBackend? backend, Terminal terminal, CancellationToken cancel)
    {
        ActivationFormat? activations = Inputs.ActivationFormat(arguments.GetValue(_activations));
        if (arguments.GetValue(_model) is { } model)
            return terminal.Load("Loading", progress => BenchLayer.FromCheckpoint(model, arguments.GetValue(_layer), activations, backend, progress, cancel));
        BenchLayer? layer = null;
        terminal.Track("Filling random weights", 1, step => layer = BenchLayer.Random(arguments.GetValue(_shape)!, Inputs.WeightFormat(arguments.GetValue(_format)), activations, backend, cancel, new LoadSteps(step)));
        return layer!;
    }
}
