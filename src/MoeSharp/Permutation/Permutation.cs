namespace MoeSharp;

/// <summary>
/// Step 3, Permute: where each routed slot's row goes so that an expert's rows are contiguous. Stable: inside an expert rows ascend by token, then
/// slot. Expert e's rows are Start[e] .. Start[e] + Count[e] - 1; Start is a multiple of the alignment.
/// </summary>
public static class Permutation
{
    /// <summary>Rows that suffice for any routing of T*K slots over E experts: what buffers are sized for when counts are not known.</summary>
    /// <param name="slots">S = T*K.</param>
    /// <param name="experts">E.</param>
    /// <param name="alignment">Row alignment a.</param>
    public static long MaxRows(long slots, int experts, int alignment)
    {
        long active = Math.Min(slots, experts);
        return RoundUp(checked(slots + active * (alignment - 1)), alignment);
    }

    /// <summary>Rows needed for exactly these counts.</summary>
    public static long ExactRows(ReadOnlySpan<int> counts, int alignment)
    {
        long rows = 0;
        foreach (int count in counts) rows = checked(rows + RoundUp(count, alignment));
        return rows;
    }

    /// <summary>Global to local ids: -1 stays -1, others go through the map (or stay, without one).</summary>
    /// <param name="ids">[T, K] as the router gave them.</param>
    /// <param name="expertMap">[global experts]: local id or -1; empty when all experts are local.</param>
    /// <param name="globalExperts">Ids must lie in -1 .. globalExperts - 1.</param>
    /// <param name="topK">K, for the message.</param>
    /// <param name="localIds">[T, K].</param>
    /// <exception cref="ArgumentException">An id is out of range; the message names token, slot and value.</exception>
    public static void MapIds<TId>(ReadOnlySpan<TId> ids, ReadOnlySpan<int> expertMap, int globalExperts, int topK, Span<int> localIds)
        where TId : unmanaged, System.Numerics.IBinaryInteger<TId>
    {
        CheckIds(ids, globalExperts, topK);
        for (int i = 0; i < ids.Length; i++)
        {
            int id = int.CreateTruncating(ids[i]);
            localIds[i] = id < 0 || expertMap.IsEmpty ? id : expertMap[id];
        }
    }

    /// <summary>Throws, as <see cref="MapIds"/> does, for the first id that is out of range.</summary>
    internal static void CheckIds<TId>(ReadOnlySpan<TId> ids, int globalExperts, int topK) where TId : unmanaged, System.Numerics.IBinaryInteger<TId>
    {
        for (int i = 0; i < ids.Length; i++)
        {
            long id = long.CreateSaturating(ids[i]);
            if (id < -1 || id >= globalExperts)
                throw new ArgumentException($"topk_ids[{i / topK}, {i % topK}] is {id}; ids must lie in -1 .. {globalExperts - 1}.", nameof(ids));
        }
    }

    /// <summary>Counts the rows of each expert.</summary>
    public static void Count(ReadOnlySpan<int> localIds, Span<int> counts)
    {
        counts.Clear();
        foreach (int id in localIds)
            if (id >= 0) counts[id]++;
    }

    /// <summary>Start row of each expert; returns the rows used.</summary>
    public static int Starts(ReadOnlySpan<int> counts, int alignment, Span<int> starts)
    {
        long row = 0;
        for (int e = 0; e < counts.Length; e++)
        {
            starts[e] = checked((int)row);
            row += RoundUp(counts[e], alignment);
        }
        return checked((int)row);
    }

    /// <summary>Assigns rows: <paramref name="rowOfSlot"/>[slot] is the permuted row (-1 where dropped), <paramref name="slotOfRow"/>[row] the slot
    /// (-1 for padding).</summary>
    /// <param name="localIds">[T, K].</param>
    /// <param name="starts">[E]; used as cursors and left at each expert's end (the "psum" ends of real rows).</param>
    /// <param name="rowOfSlot">[T, K]: DeepGEMM's inv_perm.</param>
    /// <param name="slotOfRow">[rows].</param>
    public static void Assign(ReadOnlySpan<int> localIds, Span<int> starts, Span<int> rowOfSlot, Span<int> slotOfRow)
    {
        slotOfRow.Fill(-1);
        for (int slot = 0; slot < localIds.Length; slot++)
        {
            int expert = localIds[slot];
            if (expert < 0)
            {
                rowOfSlot[slot] = -1;
                continue;
            }
            int row = starts[expert]++;
            rowOfSlot[slot] = row;
            slotOfRow[row] = slot;
        }
    }

    private static long RoundUp(long value, int alignment) => (value + alignment - 1) / alignment * alignment;
}
