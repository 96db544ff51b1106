using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Times the routed experts of a layer, beside what this machine could do at best.</summary>
internal sealed class BenchVerb : Verb
{
    private readonly Argument<string?> _model = Inputs.OptionalModel("Folder of a checkpoint; or leave it out and give --shape");
    private readonly Option<int?> _layer = Inputs.Number("--layer", "L", "Decoder layer of MODEL; without it the first one with experts", 0);
    private readonly Option<BenchShape?> _shape = Inputs.Parsed<BenchShape?>("--shape", "NAME|E,K,H,I",
        $"Random weights of these sizes; names: {string.Join(", ", BenchShape.Named.Select(shape => shape.Name))}", null, BenchShape.Parse);
    private readonly Option<int[]?> _tokens = Inputs.Parsed<int[]?>("--tokens", "T,T,...", "Token counts, one row each; without it 1,8,64,512", null,
        text => text.Split(',').Select(part => (int)Inputs.Whole("--tokens", part, 1, 1 << 20)).ToArray());
    private readonly Option<string> _format = Inputs.OneOf("--format", "Format of random weights", "block128", "block128", "mxfp8", "bf16");
    private readonly Option<string> _backend = Inputs.Backend();
    private readonly Option<string> _activations = Inputs.Activations();
    private readonly Option<int?> _threads = Inputs.Threads();
    private readonly Option<string?> _kernel = Inputs.Kernel();
    private readonly Option<string> _routing = Inputs.OneOf("--routing", "How popular experts are", "uniform", "uniform", "zipf");
    private readonly Option<long?> _seed = Inputs.Seed("Seed of the first routing; without it 1000 + T (uniform) or 2000 + T (zipf)");

    public BenchVerb() : base("bench", "Time the routed experts of a layer. Every repetition routes with a new seed, so that weights come from memory and not from a cache.",
        "moesharp bench --shape qwen3-30b-a3b --tokens 1,8,64",
        "moesharp bench --shape 32,4,1024,512 --tokens 1,16 --routing zipf --json")
    {
        Add(_model);
        foreach (Option option in (Option[])[_layer, _shape, _tokens, _format, _backend, _activations, _threads, _kernel, _routing, _seed]) Add(option);
    }

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        CheckSource(arguments);
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
        var report = new BenchReport(layer, cases, ceilings, threads);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTable(terminal);
        return ExitCode.Ok;
    }

    private BenchLayer Open(ParseResult arguments, IExpertsBackend? backend, Terminal terminal, CancellationToken cancel)
    {
        ActivationFormat? activations = Inputs.ActivationFormat(arguments.GetValue(_activations));
        if (arguments.GetValue(_model) is { } model) return BenchLayer.FromCheckpoint(model, arguments.GetValue(_layer), activations, backend);
        BenchLayer? layer = null;
        terminal.Track("Filling random weights", 1, _ => layer = BenchLayer.Random(arguments.GetValue(_shape)!, Format(arguments), activations, backend, cancel));
        return layer!;
    }

    private void CheckSource(ParseResult arguments)
    {
        bool isModel = arguments.GetValue(_model) is not null, isShape = arguments.GetValue(_shape) is not null;
        if (isModel == isShape) throw new ArgumentException("Give either MODEL or --shape, and not both.");
        if (isModel && arguments.GetResult(_format) is { Implicit: false }) throw new ArgumentException("--format is for random weights; MODEL has a format of its own.");
        if (isShape && arguments.GetValue(_layer) is not null) throw new ArgumentException("--layer chooses a layer of MODEL; with --shape there is only one.");
    }

    private WeightFormat Format(ParseResult arguments) => arguments.GetValue(_format) switch
    {
        "mxfp8" => WeightFormat.MxFp8,
        "bf16" => WeightFormat.Bf16,
        _ => WeightFormat.Block128,
    };
}
