namespace MoeSharp;

internal static partial class Families
{
    /// <summary>MiniMax-M3: MXFP8, SWIGLUOAI with gate and up apart, one shared expert.</summary>
    public static Family MiniMaxM3 => MiniMaxM2 with
    {
        Name = "MiniMax-M3",
        ModelTypes = ["minimax_m3", "minimax_m3_text"],
        Shared = "shared_experts",
        SharedIntermediate = static c => c.Int("shared_intermediate_size", "shared_expert_intermediate_size")
            ?? (c.Int("n_shared_experts", "num_shared_experts") ?? 0) * Family.Intermediate(c),
        Activation = SwigluOai,
        SharedActivation = SwigluOai,
        Fp8Name = "e4m3",
    };

    private static Activation SwigluOai(ModelConfig c, int layer)
    {
        string act = c.Text("hidden_act") ?? "swigluoai";
        if (act is not ("swigluoai" or "silu"))
            throw new CheckpointException($"{c.Path}: the activation '{act}' is not known for MiniMax-M3; swigluoai is.");
        return Activation.SwigluOai(c.Float("swiglu_alpha") ?? 1.702f, c.Float("swiglu_beta") ?? 1f, c.Float("swiglu_limit") ?? 7f);
    }
}
