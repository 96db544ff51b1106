using System.CommandLine;
using System.Globalization;

namespace MoeSharp.Cli;

/// <summary>Holds a backend against the reference, layer by layer and expert by expert.</summary>
internal sealed class VerifyVerb : Verb
{
    private const int DefaultTokens = 16;
    private const string All = "all";
    private readonly Argument<string> _model = Inputs.Model();
    private readonly Option<string> _layer = Inputs.Parsed("--layer", "L|all", "Decoder layer", All, CheckLayer);
    private readonly Option<string> _backend = Inputs.Backend();
    private readonly Option<string> _activations = Inputs.Activations();
    private readonly Option<int?> _tokens = Inputs.Number("--tokens", "N", $"Random normal hidden states, {DefaultTokens} tokens when not given", 1);
    private readonly Option<int?> _rows = Inputs.Number("--rows", "R",
        "Compute the reference for this many sampled rows only (exact, since rows are independent); all when not given", 1);
    private readonly Option<int?> _threads = Inputs.Threads();
    private readonly Option<string?> _kernel = Inputs.Kernel();

    public VerifyVerb() : base(
        "verify", "Compare a backend with the reference: every layer whole, then every expert alone with the same tokens and weight 1.",
        "moesharp verify samples/tiny-qwen3-moe-fp8",
        "moesharp verify samples/tiny-qwen3-moe-fp8 --layer 1 --tokens 64 --rows 4 --json")
    {
        Add(_model);
        foreach (Option option in (Option[])[_layer, _backend, _activations, _tokens, _rows, _threads, _kernel]) Add(option);
    }

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        int tokens = arguments.GetValue(_tokens) ?? DefaultTokens;
        using var backend = new ChosenBackend(arguments.GetValue(_backend)!, arguments.GetValue(_threads), arguments.GetValue(_kernel));
        var options = new MoeLayerOptions { Backend = backend.Backend, Activations = Inputs.ActivationFormat(arguments.GetValue(_activations)) };
        using Checkpoint model = Checkpoint.Open(arguments.GetValue(_model)!);
        IReadOnlyList<int> layers = arguments.GetValue(_layer) is { } one and not All
            ? [int.Parse(one, CultureInfo.InvariantCulture)]
            : model.MoeLayers;
        if (layers.Count == 0) throw new CheckpointException($"{model.Path} has no layer with experts, so there is nothing to verify.");
        var checks = new List<LayerCheck>();
        string name = "";
        terminal.Track("Verifying", layers.Count, step =>
        {
            foreach (int index in layers)
            {
                var loading = new LoadSteps((what, _) => step(what, checks.Count), what: $"layer {index}, ");
                using LoadedLayer loaded = LoadedLayer.Open(
                    model, index, options, loading, cancel, choose: parts => backend.For(MoeLayer.AllExperts(parts, options), tokens));
                MoeLayer layer = loaded.Layer;
                using MoeLayer reference = MoeLayer.Load(model, index, options with { Backend = ExpertsBackends.Reference }, null, cancel);
                name = layer.Experts.Backend.Name;
                RunInput input = RunInput.Random(tokens, layer.HiddenSize, seed: index + 1);
                checks.Add(new LayerVerification(layer, reference, input.Hidden, arguments.GetValue(_rows)).Run(
                    done => step(
                        $"layer {index}, {done} of {layer.Experts.Shape.Experts} experts", checks.Count + (double)done / layer.Experts.Shape.Experts),
                    cancel));
            }
        });
        var report = new VerifyReport(arguments.GetValue(_model)!, name, backend.Reason, tokens, Math.Min(arguments.GetValue(_rows) ?? tokens, tokens), checks);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTable(terminal);
        return report.Passed ? ExitCode.Ok : ExitCode.CheckFailed;
    }

    private static string CheckLayer(string text) =>
        text == All || int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out _)
            ? text
            : throw new ArgumentException($"--layer is '{text}'; it must be all or a whole number from 0.");
}
