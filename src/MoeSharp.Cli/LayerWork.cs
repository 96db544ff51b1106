namespace MoeSharp.Cli;

/// <summary>What a call must do at the least, whatever computes it.</summary>
/// <param name="Bytes">Touched experts' values and scales once, hidden states in and out in BF16.</param>
/// <param name="Flops">6 * slots * H * I, over the slots whose expert is local (all T * K of them when all experts are).</param>
internal readonly record struct LayerWork(long Bytes, long Flops)
{
    /// <summary>Of the routed experts.</summary>
    /// <param name="shape">Sizes.</param>
    /// <param name="weights">The experts.</param>
    /// <param name="ids">[T, K].</param>
    /// <param name="expertMap">[global experts], empty when all are local.</param>
    public static LayerWork Routed(ExpertsShape shape, ExpertWeights weights, ReadOnlySpan<int> ids, ReadOnlySpan<int> expertMap)
    {
        var touched = new bool[shape.Experts];
        long slots = 0, bytes = 2L * 2 * (ids.Length / shape.TopK) * shape.Hidden;
        foreach (int id in ids)
        {
            int local = id < 0 || expertMap.IsEmpty ? id : expertMap[id];
            if (local < 0) continue;
            slots++;
            if (touched[local]) continue;
            touched[local] = true;
            bytes += ExpertBytes(weights, local);
        }
        return new(bytes, 6 * slots * shape.Hidden * shape.Intermediate);
    }

    /// <summary>This and what the shared experts add: their weights, and a slot per token.</summary>
    public LayerWork PlusShared(ExpertWeights shared, int tokens) =>
        new(Bytes + ExpertBytes(shared, 0), Flops + 6L * tokens * shared.HiddenSize * shared.IntermediateSize);

    private static long ExpertBytes(ExpertWeights weights, int expert) => weights.Gate[expert].Bytes + weights.Up[expert].Bytes + weights.Down[expert].Bytes;
}
