namespace MoeSharp;

internal static partial class Families
{
    /// <summary>Qwen3-30B-A3B, 235B-A22B, Coder-480B.</summary>
    public static Family Qwen3Moe => new()
    {
        Name = "Qwen3-MoE",
        ModelTypes = ["qwen3_moe"],
        SharedIntermediate = static _ => 0,
        IsMoe = Family.SparseStep,
        BlockScales = ScaleType.BF16,
        Router = static c => Family.Softmax(c, c.Bool("norm_topk_prob") ?? false),
    };
}
