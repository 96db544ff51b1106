using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Runs one layer on hidden states from a file or on random ones.</summary>
internal sealed class RunVerb : Verb
{
    private const int DefaultTokens = 16;
    private readonly Argument<string> _model = Inputs.Model();
    private readonly Option<int?> _layer = Inputs.Number("--layer", "L", "Decoder layer", 0);
    private readonly Option<string?> _input = Inputs.Input();
    private readonly Option<int?> _tokens = Inputs.Number("--tokens", "N", $"Random normal hidden states instead of --input, {DefaultTokens} tokens when neither is given", 0);
    private readonly Option<long?> _seed = Inputs.Seed("Seed of those, 1 when not given");
    private readonly Option<string?> _output = new("--output") { HelpName = "Y.safetensors", Description = "Where to write output [T, H], topk_ids and topk_weights [T, K]" };
    private readonly Option<string> _backend = Inputs.Backend();
    private readonly Option<string> _activations = Inputs.Activations();
    private readonly Option<string> _outputDtype = Inputs.OneOf("--output-dtype", "Type of output: bf16, or f32 for the sums before their last rounding", "bf16", "bf16", "f32");
    private readonly Option<bool> _expertsOnly = new("--experts-only") { Description = "Routed experts without shared experts" };
    private readonly Option<int?> _threads = Inputs.Threads();
    private readonly Option<string?> _kernel = Inputs.Kernel();
    private readonly Option<bool> _verify = new("--verify") { Description = "Compare with the reference; exit code 1 when they differ by more than the tolerance" };

    private readonly Option<bool> _checkFinite = new("--check-finite")
    {
        Description = "Name the first value that is NaN or infinite, by step, layer, expert, row and block; exit code 1 when there is one. Runs the reference, so use few tokens",
    };
    private readonly Option<string?> _plot = Picture.Option("how many rows each expert gets");

    public RunVerb() : base("run", "Run one MoE layer of a checkpoint: router, routed experts, shared experts.",
        "moesharp run samples/tiny-qwen3-moe-fp8 --layer 0 --tokens 8 --verify",
        "moesharp run samples/tiny-qwen3-moe-fp8 --layer 0 --seed 7 --output y.safetensors",
        "moesharp run samples/tiny-qwen3-moe-fp8 --layer 1 --tokens 64 --check-finite --plot load.png")
    {
        _layer.Required = true;
        Add(_model);
        foreach (Option option in (Option[])[_layer, _input, _tokens, _seed, _output, _backend, _activations, _outputDtype, _expertsOnly, _threads, _kernel, _verify, _checkFinite, _plot]) Add(option);
        Inputs.Exclude(this, _input, _tokens, _seed);
    }

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        string path = arguments.GetValue(_model)!;
        string? outputPath = arguments.GetValue(_output);
        if (outputPath is not null) OutputFile.Check("--output", outputPath, path);
        string? plotPath = arguments.GetValue(_plot);
        if (plotPath is not null) Picture.Check(plotPath, path);
        bool checkFinite = arguments.GetValue(_checkFinite);
        bool expertsOnly = arguments.GetValue(_expertsOnly), isF32 = arguments.GetValue(_outputDtype) == "f32";
        using var backend = new ChosenBackend(arguments.GetValue(_backend)!, arguments.GetValue(_threads), arguments.GetValue(_kernel));
        var options = new MoeLayerOptions { Backend = backend.Backend, Activations = Inputs.ActivationFormat(arguments.GetValue(_activations)), AllowNaNWeights = checkFinite };

        using Checkpoint model = Checkpoint.Open(path);
        int index = arguments.GetRequiredValue(_layer)!.Value;
        using LoadedLayer loaded = terminal.Load($"Loading layer {index}", progress => LoadedLayer.Open(
            model, index, options, progress, cancel, choose: parts => backend.For(MoeLayer.AllExperts(parts, options), arguments.GetValue(_tokens) ?? DefaultTokens)));
        (LayerParts parts, MoeLayer layer) = (loaded.Parts, loaded.Layer);
        RunInput input = arguments.GetValue(_input) is { } file
            ? RunFiles.ReadInput(file, layer)
            : RunInput.Random(arguments.GetValue(_tokens) ?? DefaultTokens, layer.HiddenSize, arguments.GetValue(_seed) ?? 1);
        var run = new LayerRun(layer, input, expertsOnly, isF32);
        terminal.Track("Running", 1, step => run.Time(cancel));

        (Accuracy? error, bool idsEqual) = (null, true);
        if (arguments.GetValue(_verify))
            terminal.Track("Computing the reference", 1, step => (error, idsEqual) = CompareWithReference(model, run, input, expertsOnly, options, cancel));
        FiniteFinding? nonFinite = null;
        if (checkFinite) terminal.Track("Looking for values that are not finite", 1, step => nonFinite = FindNonFinite(model, run, input, expertsOnly, options, cancel));
        if (plotPath is not null) LoadPicture.Save(plotPath, $"{Path.GetFileName(Path.TrimEndingDirectorySeparator(path))} layer {layer.Layer}", ExpertLoad.Of(run.Ids, [], layer.Experts.Shape.Experts));
        if (outputPath is not null) RunFiles.WriteOutput(outputPath, run);
        LayerWork work = LayerWork.Routed(layer.Experts.Shape, parts.Experts, run.Ids, []);
        var report = new RunReport
        {
            Model = path,
            Layer = layer,
            Loaded = loaded,
            Chosen = backend.Reason,
            Input = input,
            Run = run,
            Work = expertsOnly || parts.SharedExperts is null ? work : work.PlusShared(parts.SharedExperts, run.Tokens),
            ExpertsOnly = expertsOnly,
            Output = outputPath,
            Error = error,
            IdsEqual = idsEqual,
            IsChecked = checkFinite,
            NonFinite = nonFinite,
            Plot = plotPath,
        };
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteFacts(terminal);
        return report.Passed ? ExitCode.Ok : ExitCode.CheckFailed;
    }

    private static (Accuracy Error, bool IdsEqual) CompareWithReference(
        Checkpoint model, LayerRun run, RunInput input, bool expertsOnly, MoeLayerOptions options, CancellationToken cancel)
    {
        using MoeLayer layer = MoeLayer.Load(model, run.Layer.Layer, options with { Backend = ExpertsBackends.Reference }, null, cancel);
        var reference = new LayerRun(layer, input, expertsOnly, run.IsF32);
        reference.Once();
        return (run.CompareWith(reference), run.Ids.AsSpan().SequenceEqual(reference.Ids));
    }

    private static FiniteFinding? FindNonFinite(Checkpoint model, LayerRun run, RunInput input, bool expertsOnly, MoeLayerOptions options, CancellationToken cancel)
    {
        var search = new FiniteSearch();
        using MoeLayer layer = MoeLayer.Load(model, run.Layer.Layer, search.Options(options), null, cancel);
        return search.Run(layer, input.Hidden, run.Ids, run.Weights, expertsOnly)
            ?? FiniteSearch.OfOutput(run.Layer, run.OutputInF32(), $"every value of the reference is finite, so backend {run.Layer.Experts.Backend.Name} is to blame");
    }
}
