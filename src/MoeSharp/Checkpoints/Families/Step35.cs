namespace MoeSharp;

internal static partial class Families
{
    /// <summary>Step-3.5: stacked experts, SWIGLUSTEP in the layers that have a limit.</summary>
    public static Family Step35 => new()
    {
        Name = "Step-3.5",
        ModelTypes = ["step3p5", "step3_5", "step3p7", "step3_7"],
        Block = "moe",
        RouterCorrectionBias = "router_bias",
        NeedsCorrectionBias = static c => c.Bool("use_moe_router_bias") ?? true,
        Shared = "../share_expert",
        SharedIntermediate = static c => c.UpTo(ModelConfig.Widest, "share_expert_dim", "share_expert_dims") ?? 0,
        IsMoe = static (c, layer) => c.Ints("moe_layers_enum") is { } layers ? layers.Contains(layer) : Family.AfterDense(c, layer),
        Activation = static (c, layer) => Step(c, "swiglu_limits", layer),
        SharedActivation = static (c, layer) => Step(c, "swiglu_limits_shared", layer),
        SwigluKeys = ["swiglu_limit", "swiglu_limits", "swiglu_limits_shared"],
        Router = static c => new()
        {
            Experts = Family.Experts(c),
            TopK = Family.TopK(c),
            Scoring = RouterScoring.Sigmoid,
            Renormalize = c.Bool("norm_expert_weight", "norm_topk_prob") ?? true,
            RenormalizeEpsilon = 1e-20f,
            ScalingFactor = c.Float("moe_router_scaling_factor") ?? 1f,
        },
    };

    private static Activation Step(ModelConfig c, string key, int layer) =>
        c.PerLayer(key, layer) is float limit and > 0 ? Activation.SwigluStep(limit) : Family.HiddenAct(c);
}
