namespace MoeSharp;

internal static partial class Families
{
    /// <summary>Mixtral.</summary>
    public static Family Mixtral => new()
    {
        Name = "Mixtral",
        ModelTypes = ["mixtral"],
        Block = "block_sparse_moe",
        Projections = ("w1", "w3", "w2"),
        SharedIntermediate = static _ => 0,
        Router = static c => Family.Softmax(c, renormalize: true),
    };
}
