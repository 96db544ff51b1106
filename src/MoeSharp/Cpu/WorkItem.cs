namespace MoeSharp;

/// <summary>Step 3, Permute: some rows of one expert. Rows are not moved; a GEMM fetches them through the slots.</summary>
internal readonly record struct WorkItem(int Expert, int FirstRow, int Rows)
{
    /// <summary>Most rows of an item: their operands for a 128-K block stay in the first two caches beside a block of weights.</summary>
    public const int MaxRows = 128;

    /// <summary>Items that suffice for any routing.</summary>
    public static long MaxCount(long slots, int experts) => Math.Min(slots, experts) + slots / MaxRows;

    /// <summary>Splits each expert's rows evenly; returns the number of items.</summary>
    /// <param name="counts">[E].</param>
    public static int Split(ReadOnlySpan<int> counts, Span<WorkItem> items)
    {
        int used = 0, row = 0;
        for (int expert = 0; expert < counts.Length; expert++)
        {
            int rows = counts[expert];
            for (int portions = (rows + MaxRows - 1) / MaxRows; portions > 0; portions--)
            {
                int portion = (rows + portions - 1) / portions;
                items[used++] = new(expert, row, portion);
                row += portion;
                rows -= portion;
            }
        }
        return used;
    }
}
