namespace MoeSharp;

internal static partial class Families
{
    /// <summary>Qwen3-Next: a gated shared expert.</summary>
    public static Family Qwen3Next => new()
    {
        Name = "Qwen3-Next",
        ModelTypes = ["qwen3_next"],
        Shared = "shared_expert",
        SharedGate = "shared_expert_gate.weight",
        SharedIntermediate = static c => c.UpTo(ModelConfig.Widest, "shared_expert_intermediate_size") ?? 0,
        IsMoe = Family.SparseStep,
        BlockScales = ScaleType.BF16,
        Router = static c => Family.Softmax(c, c.Bool("norm_topk_prob") ?? true),
    };
}
