namespace MoeSharp;

internal static partial class Families
{
    /// <summary>ERNIE-4.5: softmax, a bias for selection, a lower bound of the weights' sum.</summary>
    public static Family Ernie45 => new()
    {
        Name = "ERNIE-4.5",
        ModelTypes = ["ernie4_5_moe"],
        RouterCorrectionBias = "moe_statics.e_score_correction_bias",
        NeedsCorrectionBias = static c => c.Bool("moe_use_aux_free") ?? true,
        Shared = "shared_experts",
        SharedIntermediate = static c => Family.SharedWidth(c, "moe_num_shared_experts"),
        IsMoe = static (c, layer) =>
            layer >= (c.Int("moe_layer_start_index") ?? 0) && layer <= (c.Int("moe_layer_end_index") ?? int.MaxValue) &&
            (layer + 1) % Math.Max(c.Int("moe_layer_interval") ?? 1, 1) == 0,
        Router = static c => Family.Softmax(c, renormalize: true) with { RenormalizeMinimum = c.Float("moe_norm_min") ?? 1e-12f },
    };
}
