namespace MoeSharp;

/// <summary>How tokens reach the experts of several ranks.</summary>
public enum Dispatch : byte
{
    /// <summary>Every rank sees all tokens and the caller sums the partial outputs (all-gather + reduce-scatter, or tensor parallel).</summary>
    CallerReduces,
    /// <summary>Tokens arrive as contiguous rows with ids, and the caller combines (DeepEP high-throughput style).</summary>
    Contiguous,
    /// <summary>Tokens arrive as [E, max tokens, H] batches with counts (DeepEP low-latency style).</summary>
    Batched,
}

/// <summary>This rank's place in a parallel layout.</summary>
/// <param name="ExpertRanks">Ranks that share the experts; each holds a slice of them and gets an expert_map.</param>
/// <param name="TensorRanks">Ranks that share I; each holds a slice of gate and up rows and down columns.</param>
/// <param name="Dispatch">How tokens arrive.</param>
public readonly record struct ParallelConfiguration(int ExpertRanks = 1, int TensorRanks = 1, Dispatch Dispatch = Dispatch.CallerReduces)
{
    internal Support Check()
    {
        if (ExpertRanks < 1 || TensorRanks < 1)
            return Support.No($"A parallel layout needs at least one rank, but {ExpertRanks} expert and {TensorRanks} tensor ranks were given.");
        return Dispatch == Dispatch.Batched
            ? Support.No("Batched dispatch ([E, max tokens, H] with counts) is not supported; use contiguous rows with ids.")
            : Support.Yes;
    }
}
