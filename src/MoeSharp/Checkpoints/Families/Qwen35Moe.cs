namespace MoeSharp;

internal static partial class Families
{
    /// <summary>Qwen3.5, 3.6, 3.8: the layout of Qwen3-Next under a vision-language prefix; the BF16 releases fuse gate and up.</summary>
    public static Family Qwen35Moe => Qwen3Next with
    {
        Name = "Qwen3.5-MoE",
        ModelTypes = ["qwen3_5_moe_text", "qwen3_5_moe", "qwen4_exp", "qwen4_exp_text"],
    };
}
