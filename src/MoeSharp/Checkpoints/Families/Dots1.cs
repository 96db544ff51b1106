namespace MoeSharp;

internal static partial class Families
{
    /// <summary>dots.llm1.</summary>
    public static Family Dots1 => new()
    {
        Name = "dots1",
        ModelTypes = ["dots1"],
        RouterCorrectionBias = "gate.e_score_correction_bias",
        Shared = "shared_experts",
        IsMoe = Family.AfterDense,
        Router = Family.GroupedSigmoid,
    };
}
