using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Makes an FP8 checkpoint from a BF16, F16 or F32 one.</summary>
internal sealed class QuantizeVerb : Verb
{
    private readonly Argument<string> _model = Inputs.Model();
    private readonly Option<string> _format = Inputs.OneOf("--format",
        "FP8 in 128x128 blocks, with any or with power-of-two scales, or MXFP8", null, "block128", "block128-pow2", "mxfp8");
    private readonly Option<string> _out = Inputs.Out();
    private readonly Option<bool> _linears = new("--linears")
    {
        Description =
            "Also quantize the decoder's other linear layers (attention, dense MLPs) of at least a block; without it routed and shared experts only",
    };
    private readonly Option<bool> _perExpert = new("--per-expert")
    {
        Description = "A row per expert in the table of errors; without it a row per layer",
    };

    private readonly Option<string?> _plot = Picture.Option("the error of every layer's experts");

    public QuantizeVerb() : base(
        "quantize",
        "Write an FP8 checkpoint from a BF16, F16 or F32 one, with the error of every expert. An interrupted run goes on when started again.",
        "moesharp dequantize samples/tiny-qwen3-moe-fp8 --out tiny-bf16",
        "moesharp quantize tiny-bf16 --format block128 --out tiny-fp8 --per-expert",
        "moesharp quantize tiny-bf16 --format mxfp8 --linears --out tiny-mxfp8 --plot errors.png")
    {
        _format.Required = true;
        Add(_model);
        foreach (Option option in (Option[])[_format, _out, _linears, _perExpert, _plot]) Add(option);
    }

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        string path = arguments.GetValue(_model)!, output = arguments.GetValue(_out)!;
        WeightFormat format = arguments.GetValue(_format) switch
        {
            "mxfp8" => WeightFormat.MxFp8,
            "block128-pow2" => WeightFormat.Block128PowerOfTwo,
            _ => WeightFormat.Block128,
        };
        string? plot = arguments.GetValue(_plot);
        if (plot is not null) Picture.Check(plot, path);
        using Checkpoint model = Checkpoint.Open(path);
        var quantization = new Quantization(model, format, arguments.GetValue(_linears));
        IReadOnlyList<QuantizationError> errors = [];
        terminal.Track("Quantizing", model.Index.Files.Count() + 1, step => errors = quantization.Write(output, step, cancel));
        if (plot is not null) ErrorPicture.Save(plot, format, errors);
        var report = new QuantizeReport(path, output, format, errors);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTable(terminal, arguments.GetValue(_perExpert));
        return ExitCode.Ok;
    }
}
