using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;

namespace MoeSharp.Cli;

/// <summary>Arguments and options that several verbs share, each with a sentence for what it refuses.</summary>
internal static class Inputs
{
    private const string Peers = "peers";

    public static Argument<string> Model() =>
        Model<string>("Folder of a Hugging Face checkpoint (config.json and safetensors)", ArgumentArity.ExactlyOne);

    public static Argument<string?> OptionalModel(string description, string name = "MODEL") => Model<string?>(description, ArgumentArity.ZeroOrOne, name);

    /// <summary>Hidden states from a file.</summary>
    public static Option<string?> Input() => new("--input")
    {
        HelpName = "X.safetensors",
        Description = "hidden_states [T, H]; with topk_ids and topk_weights [T, K] the router is bypassed",
    };

    /// <summary>Refuses a file of hidden states together with what random ones are made from.</summary>
    public static void Exclude(Command verb, Option input, params Option[] others) => verb.Validators.Add(result =>
    {
        if (result.GetResult(input) is null) return;
        foreach (Option other in others)
            if (result.GetResult(other) is not null) result.AddError($"{input.Name} and {other.Name} exclude each other.");
    });

    /// <summary>A folder to be written.</summary>
    public static Option<string> Out() => new("--out") { HelpName = "DIR", Description = "Folder to write; it must not exist", Required = true };

    public static Option<string> Backend() => Parsed("--backend", "NAME", $"What computes: {ChosenBackend.Names} (a GPU)", "auto", text =>
        ChosenBackend.IsName(text) ? text : throw new ArgumentException($"--backend is '{text}'; use {ChosenBackend.Names}."));

    public static Option<string> Activations() =>
        OneOf("--activations", "How activations enter the GEMMs: fp8 or bf16; without it fp8 for FP8 weights, bf16 for BF16 weights", null, "fp8", "bf16");

    public static Option<string?> Kernel() =>
        new("--kernel") { Description = "Kernel of the cpu backend, as info lists them; without it the first that this machine can run", HelpName = "NAME" };

    /// <summary>Random weights of published or given sizes.</summary>
    public static Option<BenchShape?> Shape() => Parsed<BenchShape?>("--shape", "NAME|E,K,H,I",
        $"Random weights of these sizes; names: {string.Join(", ", BenchShape.Named.Select(shape => shape.Name))}", null, BenchShape.Parse);

    /// <summary>Same, or all shapes of the peers' table.</summary>
    public static Option<BenchShape[]?> Shapes() => Parsed<BenchShape[]?>("--shape", "NAME|E,K,H,I",
        $"Random weights of these sizes; names: {string.Join(", ", BenchShape.Named.Select(shape => shape.Name))}; or {Peers} for all that a GPU is compared with", null,
        text => text == Peers ? [.. PeerTimes.Shapes] : [BenchShape.Parse(text)]);

    /// <summary>Of the weights of --shape.</summary>
    public static Option<string> RandomFormat() => OneOf("--format", "Format of random weights", "block128", "block128", "mxfp8", "bf16");

    /// <summary>The choice behind <see cref="RandomFormat"/>.</summary>
    public static WeightFormat WeightFormat(string? text) => text switch
    {
        "mxfp8" => MoeSharp.WeightFormat.MxFp8,
        "bf16" => MoeSharp.WeightFormat.Bf16,
        _ => MoeSharp.WeightFormat.Block128,
    };

    /// <summary>Either a checkpoint or a shape, each with its own options only.</summary>
    /// <exception cref="ArgumentException">Both, neither, or an option of the other.</exception>
    public static void CheckSource(ParseResult arguments, Argument<string?> model, Option shape, Option<int?> layer, params Option[] ofShapes)
    {
        bool isModel = arguments.GetValue(model) is not null, isShape = arguments.GetResult(shape) is { Implicit: false };
        if (isModel == isShape) throw new ArgumentException("Give either MODEL or --shape, and not both.");
        foreach (Option option in ofShapes)
            if (isModel && arguments.GetResult(option) is { Implicit: false })
                throw new ArgumentException($"{option.Name} is for random weights; MODEL has its own.");
        if (isShape && arguments.GetValue(layer) is not null) throw new ArgumentException("--layer chooses a layer of MODEL; with --shape there is only one.");
    }

    public static Option<int?> Threads() => Number("--threads", "N", "Worker threads of the cpu backend; without it one per processor", 1);

    public static Option<long?> Seed(string description) => Parsed<long?>("--seed", "S", description, null, text => Whole("--seed", text, 0, uint.MaxValue));

    /// <summary>A whole number of at least <paramref name="least"/>; null when not given.</summary>
    public static Option<int?> Number(string name, string helpName, string description, int least) =>
        Parsed<int?>(name, helpName, description, null, text => (int)Whole(name, text, least, int.MaxValue));

    /// <summary>One of a few words.</summary>
    public static Option<string> OneOf(string name, string description, string? otherwise, params string[] words) =>
        Parsed(name, string.Join('|', words), description, otherwise!, text =>
            words.Contains(text) ? text : throw new ArgumentException($"{name} is '{text}'; use {string.Join(words.Length == 2 ? " or " : ", ", words)}."));

    /// <summary>An option whose text is turned into a value; errors of doing so become errors of parsing.</summary>
    public static Option<T> Parsed<T>(string name, string helpName, string description, T otherwise, Func<string, T> parse)
    {
        T Convert(ArgumentResult result)
        {
            try
            {
                return parse(result.Tokens.Single().Value);
            }
            catch (Exception refused) when (refused is ArgumentException or MoeSharpException)
            {
                result.AddError(refused.Message);
                return default!;
            }
        }

        var option = new Option<T>(name) { Description = description, HelpName = helpName, CustomParser = Convert, Arity = ArgumentArity.ExactlyOne };
        if (otherwise is not null) option.DefaultValueFactory = _ => otherwise;
        return option;
    }

    /// <summary>A whole number in a range, or a sentence.</summary>
    public static long Whole(string name, string text, long least, long most) =>
        long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long value) && value >= least && value <= most
            ? value
            : throw new ArgumentException($"{name} is '{text}'; it must be a whole number from {least} to {most}.");

    /// <summary>The choice behind --activations.</summary>
    public static ActivationFormat? ActivationFormat(string? text) => text switch
    {
        "fp8" => MoeSharp.ActivationFormat.Fp8,
        "bf16" => MoeSharp.ActivationFormat.Bf16,
        _ => null,
    };

    private static Argument<T> Model<T>(string description, ArgumentArity arity, string name = "MODEL")
    {
        var model = new Argument<T>(name) { Description = description, Arity = arity };
        model.Validators.Add(result =>
        {
            // An option that does not exist would otherwise be taken for a folder's name.
            if (result.Tokens.FirstOrDefault(token => token.Value.StartsWith('-')) is { } option) result.AddError($"There is no option '{option.Value}'.");
        });
        return model;
    }
}
