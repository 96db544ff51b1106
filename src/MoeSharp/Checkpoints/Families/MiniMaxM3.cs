namespace MoeSharp;

internal static partial class Families
{
    /// <summary>MiniMax-M3: MXFP8, SWIGLUOAI with gate and up apart, one shared expert.</summary>
    public static Family MiniMaxM3 => MiniMaxM2 with
    {
        Name = "MiniMax-M3",
        ModelTypes = ["minimax_m3", "minimax_m3_text", "minimax_m3_vl", "minimax_m3_vl_text"],
        Shared = "shared_experts",
        SharedIntermediate = static c => c.UpTo(ModelConfig.Widest, "shared_intermediate_size", "shared_expert_intermediate_size")
            ?? Family.SharedWidth(c, "n_shared_experts", "num_shared_experts"),
        IsMoe = Family.AfterDense, // the first layers are dense, as moe_layer_freq lists
        Activation = SwigluOai,
        SharedActivation = SwigluOai,
        SwigluKeys = ["swiglu_limit", "swiglu_alpha", "swiglu_beta"],
        Fp8Name = "e4m3",
    };

    private static Activation SwigluOai(ModelConfig c, int layer)
    {
        string act = c.Text("hidden_act") ?? "swigluoai";
        if (act is not "swigluoai")
            throw new CheckpointException($"{c.Path}: hidden_act is '{act}' but MiniMax-M3 is known with swigluoai only; correct config.json.");
        return Activation.SwigluOai(c.Float("swiglu_alpha") ?? 1.702f, c.Float("swiglu_beta") ?? 1f, c.Limit("swiglu_limit") ?? 7f);
    }
}
