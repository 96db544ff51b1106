using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Times the routed experts of a layer, beside what this machine could do at best.</summary>
internal sealed class BenchVerb : Verb
{
    private static readonly int[] s_tokens = [1, 8, 64, 512], s_gpuTokens = [1, 8, 32, 64, 128, 512, 2048, 8192];
    private readonly Argument<string?> _model = Inputs.OptionalModel("Folder of a checkpoint; or leave it out and give --shape");
    private readonly Option<int?> _layer = Inputs.Number("--layer", "L", "Decoder layer of MODEL; without it the first one with experts", 0);
    private readonly Option<BenchShape[]?> _shape = Inputs.Shapes();
    private readonly Option<int[]?> _tokens = Inputs.Parsed<int[]?>("--tokens", "T,T,...", "Token counts, one row each; without it 1,8,64,512, on a GPU also 32, 128, 2048 and 8192", null,
        text => text.Split(',').Select(part => (int)Inputs.Whole("--tokens", part, 1, 1 << 20)).ToArray());
    private readonly Option<string> _format = Inputs.RandomFormat();
    private readonly Option<string> _backend = Inputs.Backend();
    private readonly Option<string> _activations = Inputs.Activations();
    private readonly Option<int?> _threads = Inputs.Threads();
    private readonly Option<string?> _kernel = Inputs.Kernel();
    private readonly Option<string> _routing = Inputs.OneOf("--routing", "How popular experts are", "uniform", "uniform", "zipf");
    private readonly Option<long?> _seed = Inputs.Seed("Seed of the first routing; without it 1000 + T (uniform) or 2000 + T (zipf)");

    private readonly Option<string?> _plot = Picture.Option("time over tokens and the roofline");

    public BenchVerb() : base("bench", "Time the routed experts of a layer, with weights that come from memory and not from a cache.",
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
        if (plot is not null)
        {
            if (arguments.GetValue(_shape) is { Length: > 1 }) throw new ArgumentException("--plot draws one shape; name one with --shape.");
            Picture.Check(plot, arguments.GetValue(_model));
        }
        int[] given = arguments.GetValue(_tokens) ?? []; // an array that was not given is empty, not null
        var routing = arguments.GetValue(_routing) == "zipf" ? RoutingKind.Zipf : RoutingKind.Uniform;
        using var backend = new ChosenBackend(arguments.GetValue(_backend)!, arguments.GetValue(_threads), arguments.GetValue(_kernel));
        int[] gpuTokens = given.Length > 0 ? given : s_gpuTokens;
        if (Choose(backend, arguments, gpuTokens.Max()) is CudaBackend gpu) return RunOnGpu(gpu, backend.Reason, gpuTokens, routing, plot, arguments, terminal, cancel);
        if (arguments.GetValue(_shape) is { Length: > 1 }) throw new ArgumentException("--shape peers is for GPUs; name one shape.");
        int[] tokens = given.Length > 0 ? given : s_tokens;
        int threads = arguments.GetValue(_threads) ?? Environment.ProcessorCount;
        using BenchLayer layer = Open(arguments, backend.Backend, terminal, cancel);
        BenchCase[] cases = [.. tokens.Select(t => new BenchCase(layer, t, routing, arguments.GetValue(_seed)))];
        using Team? ownTeam = layer.Experts.Backend is CpuBackend ? null : new Team(threads);
        using var ceilings = new Ceilings(ownTeam ?? ((CpuBackend)layer.Experts.Backend).Team);
        var rounds = new BenchRounds(layer, cases, ceilings);
        terminal.Track("Timing", rounds.Steps, step => rounds.Run(step, cancel));
        if (plot is not null) BenchPicture.Save(plot, layer, cases, ceilings);
        var report = new BenchReport(layer, cases, ceilings, threads, backend.Reason);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTable(terminal);
        return ExitCode.Ok;
    }

    /// <summary>What was asked for, or what auto takes for every layer.</summary>
    private IExpertsBackend? Choose(ChosenBackend backend, ParseResult arguments, int tokens)
    {
        ActivationFormat? activations = Inputs.ActivationFormat(arguments.GetValue(_activations));
        if (backend.Backend is not null) return backend.Backend;
        if (arguments.GetValue(_model) is { } path)
        {
            using Checkpoint model = Checkpoint.Open(path);
            using LayerParts parts = model.ReadLayer(arguments.GetValue(_layer) ?? model.MoeLayers.FirstOrDefault());
            return backend.For(MoeLayer.AllExperts(parts, new() { Activations = activations }).Take(1), tokens);
        }
        IExpertsBackend? chosen = null;
        foreach (BenchShape shape in arguments.GetValue(_shape)!)
        {
            chosen = backend.For(shape, Inputs.WeightFormat(arguments.GetValue(_format)), activations, tokens);
            if (chosen is null) break;
        }
        return chosen;
    }

    private int RunOnGpu(
        CudaBackend gpu, string? chosen, int[] tokens, RoutingKind routing, string? plot, ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        BenchShape?[] shapes = arguments.GetValue(_shape) is { Length: > 0 } named ? [.. named] : [null]; // null: MODEL
        using var bench = new GpuBench(gpu);
        BenchLayer? loaded = shapes[0] is null ? Open(arguments, gpu, terminal, cancel) : null;
        ActivationFormat? activations = Inputs.ActivationFormat(arguments.GetValue(_activations));
        int done = 0;
        terminal.Track("Timing", shapes.Length * tokens.Length, step =>
        {
            foreach (BenchShape? shape in shapes)
            {
                step(shape?.Name ?? loaded!.Name, done);
                using GpuLayer layer = shape is null
                    ? GpuLayer.Of(loaded!)
                    : GpuLayer.Random(shape, Inputs.WeightFormat(arguments.GetValue(_format)), activations, gpu, bench.Tables);
                GpuCase[] calls = [.. tokens.Select(count => GpuCase.Random(layer, count, routing, arguments.GetValue(_seed)))];
                bench.Run(layer, calls, count => step($"{layer.Name}, {count} tokens", done++), cancel);
            }
        });
        if (plot is not null) BenchPicture.Save(plot, bench.Cases, bench.Ceilings);
        var report = new GpuReport(bench, gpu, chosen);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTables(terminal);
        return ExitCode.Ok;
    }

    private BenchLayer Open(ParseResult arguments, IExpertsBackend? backend, Terminal terminal, CancellationToken cancel)
    {
        ActivationFormat? activations = Inputs.ActivationFormat(arguments.GetValue(_activations));
        if (arguments.GetValue(_model) is { } model)
            return terminal.Load("Loading", progress => BenchLayer.FromCheckpoint(model, arguments.GetValue(_layer), activations, backend, progress, cancel));
        BenchLayer? layer = null;
        terminal.Track("Filling random weights", 1, step => layer = BenchLayer.Random(arguments.GetValue(_shape)![0], Inputs.WeightFormat(arguments.GetValue(_format)), activations, backend, cancel, new LoadSteps(step)));
        return layer!;
    }
}
