namespace MoeSharp;

internal static partial class Families
{
    /// <summary>GLM-4.5, 4.6, 4.7.</summary>
    public static Family Glm4Moe => new()
    {
        Name = "GLM-4-MoE",
        ModelTypes = ["glm4_moe"],
        RouterCorrectionBias = "gate.e_score_correction_bias",
        Shared = "shared_experts",
        IsMoe = Family.AfterDense,
        Router = Family.GroupedSigmoid,
    };
}
