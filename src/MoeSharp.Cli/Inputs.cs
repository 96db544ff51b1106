using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;

namespace MoeSharp.Cli;

/// <summary>Arguments and options that several verbs share, each with a sentence for what it refuses.</summary>
internal static class Inputs
{
    public static Argument<string> Model() =>
        Model<string>("Folder of a Hugging Face checkpoint (config.json and safetensors)", ArgumentArity.ExactlyOne);

    public static Argument<string?> OptionalModel(string description) => Model<string?>(description, ArgumentArity.ZeroOrOne);

    /// <summary>A folder to be written.</summary>
    public static Option<string> Out() => new("--out") { HelpName = "DIR", Description = "Folder to write; it must not exist", Required = true };

    public static Option<string> Backend() => Parsed("--backend", "NAME", $"What computes: auto, {BackendNames()}", "auto", text =>
    {
        if (text != "auto") ExpertsBackends.ByName(text);
        return text;
    });

    public static Option<string> Activations() =>
        OneOf("--activations", "How activations enter the GEMMs: fp8 or bf16; without it fp8 for FP8 weights, bf16 for BF16 weights", null, "fp8", "bf16");

    public static Option<string?> Kernel() =>
        new("--kernel") { Description = "Kernel of the cpu backend, as info lists them; without it the first that this machine can run", HelpName = "NAME" };

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

    private static Argument<T> Model<T>(string description, ArgumentArity arity)
    {
        var model = new Argument<T>("MODEL") { Description = description, Arity = arity };
        model.Validators.Add(result =>
        {
            // An option that does not exist would otherwise be taken for a folder's name.
            if (result.Tokens.FirstOrDefault(token => token.Value.StartsWith('-')) is { } option) result.AddError($"There is no option '{option.Value}'.");
        });
        return model;
    }

    private static string BackendNames() => string.Join(", ", ExpertsBackends.All.Select(backend => backend.Name));
}
