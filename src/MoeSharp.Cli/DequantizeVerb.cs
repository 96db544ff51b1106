using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Makes a BF16 checkpoint from an FP8 one.</summary>
internal sealed class DequantizeVerb : Verb
{
    private readonly Argument<string> _model = Inputs.Model();
    private readonly Option<string> _out = Inputs.Out();

    public DequantizeVerb() : base(
        "dequantize",
        "Write a BF16 checkpoint from an FP8 one: value times scale, rounded once. An interrupted run goes on when started again.",
        "moesharp dequantize samples/tiny-qwen3-moe-fp8 --out tiny-bf16")
    {
        Add(_model);
        Add(_out);
    }

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        string path = arguments.GetValue(_model)!, output = arguments.GetValue(_out)!;
        using Checkpoint model = Checkpoint.Open(path);
        var dequantization = new Dequantization(model);
        int tensors = 0;
        terminal.Track("Dequantizing", model.Index.Files.Count() + 1, step => tensors = dequantization.Write(output, step, cancel));
        if (terminal.Json)
        {
            terminal.WriteJson(json =>
            {
                json.WriteString("model", path);
                json.WriteString("output", output);
                json.WriteString("format", Names.Of(WeightFormat.Bf16));
                json.WriteNumber("tensors", tensors);
            });
        }
        else
        {
            terminal.WriteLine($"{output}: {Units.Plural(tensors, "tensor")} from {Names.Of(model.QuantizedFormat!.Value)} to bf16");
        }
        return ExitCode.Ok;
    }
}
