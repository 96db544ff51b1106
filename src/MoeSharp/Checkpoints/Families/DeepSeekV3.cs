namespace MoeSharp;

internal static partial class Families
{
    /// <summary>DeepSeek-V3, R1, V3.1, V3.2, and models of the same layout: Kimi-K2, GLM-5, MiMo-V2.</summary>
    public static Family DeepSeekV3 => new()
    {
        Name = "DeepSeek-V3",
        ModelTypes = ["deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa", "glm5_next", "mimo_v2", "mimo_v2_flash"],
        RouterCorrectionBias = "gate.e_score_correction_bias",
        Shared = "shared_experts",
        IsMoe = Family.AfterDense,
        Router = Family.GroupedSigmoid,
    };
}
