namespace MoeSharp;

/// <summary>Step 3: rows grouped by expert, in a stable order. Padding rows are never written nor read.</summary>
internal static class Permute
{
    /// <summary>Counts, places and copies.</summary>
    /// <param name="localIds">[T, K].</param>
    /// <param name="hidden">[T, H].</param>
    /// <param name="counts">[E]: rows of each expert.</param>
    /// <param name="ends">[E]: one past the last row of each expert.</param>
    /// <param name="rowOfSlot">[T, K]; -1 where dropped.</param>
    /// <param name="slotOfRow">[R]; -1 for padding.</param>
    /// <param name="permuted">[R, H].</param>
    public static void Run(ExpertsShape shape, ReadOnlySpan<int> localIds, Operand hidden, Span<int> counts, Span<int> ends, Span<int> rowOfSlot,
        Span<int> slotOfRow, Operand permuted)
    {
        Permutation.Count(localIds, counts);
        Permutation.Starts(counts, shape.RowAlignment, ends);
        Permutation.Assign(localIds, ends, rowOfSlot, slotOfRow);
        for (int slot = 0; slot < localIds.Length; slot++)
        {
            if (rowOfSlot[slot] < 0) continue;
            int token = slot / shape.TopK, row = rowOfSlot[slot];
            hidden.Row(token).CopyTo(permuted.Row(row));
            hidden.Scales(token).CopyTo(permuted.Scales(row));
        }
    }
}
