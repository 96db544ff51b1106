using System.CommandLine;
using System.Globalization;

namespace MoeSharp.Cli;

/// <summary>Compares two checkpoints, formats or backends on one layer and the same tokens.</summary>
internal sealed class CompareVerb : Verb
{
    private const int DefaultTokens = 16, DefaultWorst = 8;
    private readonly Argument<string> _model = Inputs.Model();
    private readonly Argument<string?> _model2 = Inputs.OptionalModel("Another checkpoint with layers of the same sizes, for --b; without it both sides are MODEL", "MODEL2");
    private readonly Option<int?> _layer = Inputs.Number("--layer", "L", "Decoder layer", 0);
    private readonly Option<Side?> _a = SideOption("--a", "What is looked at; stored when not given. FORMAT: stored (also: as-is) for what the checkpoint has, or block128, block128-pow2, mxfp8, bf16, made from it in memory. "
        + "BACKEND: what --backend of run takes, or cpu:KERNEL. ACTIVATIONS: fp8 or bf16");
    private readonly Option<Side?> _b = SideOption("--b", "What it is measured against; stored/reference when not given, or stored where there is a MODEL2");
    private readonly Option<string?> _input = Inputs.Input();
    private readonly Option<int?> _tokens = Inputs.Number("--tokens", "N", $"Random normal hidden states instead of --input, {DefaultTokens} tokens when neither is given", 1);
    private readonly Option<long?> _seed = Inputs.Seed("Seed of those, 1 when not given");
    private readonly Option<int?> _worst = Inputs.Number("--worst", "N", $"How many experts and rows to show, worst first; {DefaultWorst} when not given", 1);
    private readonly Option<double?> _tolerance = Inputs.Parsed<double?>("--tolerance", "R", "Largest relative L2 error of the layer and of every expert; exit code 1 when one is larger", null,
        text => double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) && value >= 0
            ? value
            : throw new ArgumentException($"--tolerance is '{text}'; it must be a number from 0."));
    private readonly Option<bool> _checkFinite = new("--check-finite")
    {
        Description = "Name the first value of each side that is NaN or infinite, by step, layer, expert, row and block; exit code 1 when there is one. Runs the reference",
    };
    private readonly Option<int?> _threads = Inputs.Threads();
    private readonly Option<string?> _kernel = Inputs.Kernel();

    public CompareVerb() : base("compare",
        "Compare two checkpoints, formats or backends on one layer and the same tokens: the error of the layer, of every expert, and the worst rows.",
        "moesharp compare samples/tiny-qwen3-moe-fp8 --layer 0",
        "moesharp compare samples/tiny-qwen3-moe-fp8 --layer 0 --a mxfp8 --b stored",
        "moesharp dequantize samples/tiny-qwen3-moe-fp8 --out tiny-bf16",
        "moesharp compare samples/tiny-qwen3-moe-fp8 tiny-bf16 --layer 1 --check-finite --json")
    {
        _layer.Required = true;
        Add(_model);
        Add(_model2);
        foreach (Option option in (Option[])[_layer, _a, _b, _input, _tokens, _seed, _worst, _tolerance, _checkFinite, _threads, _kernel]) Add(option);
        Inputs.Exclude(this, _input, _tokens, _seed);
    }

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        string modelA = arguments.GetValue(_model)!, modelB = arguments.GetValue(_model2) ?? modelA;
        Side sideA = arguments.GetValue(_a) ?? Side.Parse("--a", "stored"), sideB = arguments.GetValue(_b) ?? Side.Parse("--b", arguments.GetValue(_model2) is null ? "stored/reference" : "stored");
        int layer = arguments.GetRequiredValue(_layer)!.Value;
        int tokens = arguments.GetValue(_tokens) ?? DefaultTokens;
        (int? threads, string? kernel) = (arguments.GetValue(_threads), arguments.GetValue(_kernel));
        if (kernel is not null && !sideA.MayUseCpu && !sideB.MayUseCpu)
            throw new ArgumentException($"--kernel is '{kernel}', a choice of the cpu backend, but no side runs on it; leave it out, or name cpu in --a or --b.");
        using OpenedSide a = terminal.Load("Loading a", progress => OpenedSide.Open(modelA, layer, sideA, tokens, threads, kernel, progress, cancel));
        using OpenedSide b = terminal.Load("Loading b", progress => OpenedSide.Open(modelB, layer, sideB, tokens, threads, kernel, progress, cancel));
        RunInput input = arguments.GetValue(_input) is { } file
            ? RunFiles.ReadInput(file, a.Layer)
            : RunInput.Random(tokens, a.Layer.HiddenSize, arguments.GetValue(_seed) ?? 1);
        var comparison = new Comparison(a.Layer, b.Layer, input);
        terminal.Track("Comparing", 1, step => comparison.Run(cancel));
        bool checkFinite = arguments.GetValue(_checkFinite);
        (FiniteFinding? inA, FiniteFinding? inB) = (null, null);
        if (checkFinite)
            terminal.Track("Looking for values that are not finite", 2, step =>
            {
                inA = OpenedSide.FindNonFinite(modelA, layer, sideA, input, comparison.Ids, comparison.Weights, cancel);
                step("b", 1);
                inB = OpenedSide.FindNonFinite(modelB, layer, sideB, input, comparison.Ids, comparison.Weights, cancel);
            });
        var report = new CompareReport
        {
            A = a,
            B = b,
            Input = input,
            Result = comparison,
            Worst = arguments.GetValue(_worst) ?? DefaultWorst,
            Tolerance = arguments.GetValue(_tolerance),
            IsChecked = checkFinite,
            NonFiniteInA = inA,
            NonFiniteInB = inB,
        };
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.WriteTables(terminal);
        return report.Passed ? ExitCode.Ok : ExitCode.CheckFailed;
    }

    private static Option<Side?> SideOption(string name, string description) => Inputs.Parsed<Side?>(name, Side.HelpName, description, null, text => Side.Parse(name, text));
}
