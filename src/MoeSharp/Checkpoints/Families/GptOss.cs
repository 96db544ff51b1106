namespace MoeSharp;

internal static partial class Families
{
    /// <summary>gpt-oss in BF16: gate and up interleaved in one transposed tensor, biases everywhere.</summary>
    public static Family GptOss => new()
    {
        Name = "gpt-oss",
        ModelTypes = ["gpt_oss"],
        Transposed = true,
        RouterWeight = "router.weight",
        RouterLogitBias = "router.bias",
        SharedIntermediate = static _ => 0,
        Activation = static (c, _) => MoeSharp.Activation.SwigluOai(limit: c.Limit("swiglu_limit") ?? 7f, interleaved: true),
        Router = static c => new() { Experts = Family.Experts(c), TopK = Family.TopK(c), Scoring = RouterScoring.TopkSoftmax },
    };
}
