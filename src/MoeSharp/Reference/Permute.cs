namespace MoeSharp;

/// <summary>Step 3: rows grouped by expert, in a stable order. Padding rows are never written nor read.</summary>
internal static class Permute
{
    /// <summary>Counts, places and copies.</summary>
    /// <param name="localIds">[T, K].</param>
    /// <param name="hidden">[T, H].</param>
    /// <param name="grouping">Filled.</param>
    /// <param name="permuted">[rows, H].</param>
    public static void Run(ExpertsShape shape, ReadOnlySpan<int> localIds, Rows hidden, Grouping grouping, Rows permuted)
    {
        Permutation.Count(localIds, grouping.Counts);
        Permutation.Starts(grouping.Counts, shape.RowAlignment, grouping.Ends);
        Permutation.Assign(localIds, grouping.Ends, grouping.RowOfSlot, grouping.SlotOfRow);
        for (int slot = 0; slot < localIds.Length; slot++)
            if (grouping.RowOfSlot[slot] >= 0)
                hidden.Slice(slot / shape.TopK, 1).CopyTo(permuted.Slice(grouping.RowOfSlot[slot], 1));
    }
}

/// <summary>Where the rows of each expert and of each slot lie.</summary>
internal readonly ref struct Grouping
{
    /// <summary>[E]: rows of each expert.</summary>
    public required Span<int> Counts { get; init; }
    /// <summary>[E]: one past the last row of each expert.</summary>
    public required Span<int> Ends { get; init; }
    /// <summary>[T, K]; -1 where dropped.</summary>
    public required Span<int> RowOfSlot { get; init; }
    /// <summary>[rows]; -1 for padding.</summary>
    public required Span<int> SlotOfRow { get; init; }

    /// <summary>The first row of an expert.</summary>
    public int First(int expert) => Ends[expert] - Counts[expert];
}
