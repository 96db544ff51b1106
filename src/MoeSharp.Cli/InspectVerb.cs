using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Shows what a checkpoint holds.</summary>
internal sealed class InspectVerb : Verb
{
    private readonly Argument<string> _model = Inputs.Model();

    public InspectVerb() : base(
        "inspect",
        "Show the MoE layers of a checkpoint: family, shapes, formats, tensors, sizes, router. Reads headers only.",
        "moesharp inspect samples/tiny-qwen3-moe-fp8") => Add(_model);

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        string path = arguments.GetValue(_model)!;
        using Checkpoint model = Checkpoint.Open(path);
        var layers = new List<(int, LayerSummary)>();
        foreach (int layer in model.MoeLayers)
        {
            cancel.ThrowIfCancellationRequested();
            layers.Add((layer, new(model.Outline(layer))));
        }
        var report = new InspectReport(path, model.FamilyName, layers);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTreeAndTable(terminal);
        return ExitCode.Ok;
    }
}
