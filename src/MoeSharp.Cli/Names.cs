namespace MoeSharp.Cli;

/// <summary>How the library's choices are spelled on the command line and in reports.</summary>
internal static class Names
{
    public static string Of(WeightFormat format) => format switch
    {
        WeightFormat.Block128 => "block128",
        WeightFormat.Block128PowerOfTwo => "block128-pow2",
        WeightFormat.MxFp8 => "mxfp8",
        _ => "bf16",
    };

    public static string Of(ActivationFormat activations) => activations == ActivationFormat.Fp8 ? "fp8" : "bf16";

    public static string Of(Activation activation)
    {
        string kind = activation.Kind switch
        {
            ActivationKind.Silu => "silu",
            ActivationKind.SwigluOai => FormattableString.Invariant($"swigluoai, alpha {activation.Alpha}, beta {activation.Beta}"),
            ActivationKind.SwigluStep => "swiglustep",
            _ => "gelu-tanh",
        };
        return activation.Limit is { } limit ? FormattableString.Invariant($"{kind}, limit {limit}") : kind;
    }

    /// <summary>A layer's sizes in one line.</summary>
    public static string Of(ExpertsShape shape)
    {
        string experts = shape.Experts == shape.GlobalExperts ? $"{shape.Experts}" : $"{shape.Experts} of {shape.GlobalExperts}";
        return $"{experts} experts, top-{shape.TopK}, hidden {shape.Hidden}, intermediate {shape.Intermediate}, {Of(shape.Format)} weights, " +
            $"{Of(shape.Activations)} activations";
    }
}
