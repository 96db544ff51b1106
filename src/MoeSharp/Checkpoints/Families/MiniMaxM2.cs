namespace MoeSharp;

internal static partial class Families
{
    /// <summary>MiniMax-M2.</summary>
    public static Family MiniMaxM2 => new()
    {
        Name = "MiniMax-M2",
        ModelTypes = ["minimax_m2"],
        Block = "block_sparse_moe",
        Projections = ("w1", "w3", "w2"),
        RouterCorrectionBias = "e_score_correction_bias",
        NeedsCorrectionBias = static c => c.Bool("use_routing_bias") ?? true,
        SharedIntermediate = static _ => 0,
        Router = SigmoidWithBias,
        Fp8Name = "float8_e4m3fn",
    };

    /// <summary>Ungrouped sigmoid; weights are always renormalised.</summary>
    private static RouterOptions SigmoidWithBias(ModelConfig c) => new()
    {
        Experts = Family.Experts(c),
        TopK = Family.TopK(c),
        Scoring = RouterScoring.Sigmoid,
        Renormalize = c.Bool("norm_topk_prob") ?? true,
        ScalingFactor = c.Float("routed_scaling_factor") ?? 1f,
    };
}
