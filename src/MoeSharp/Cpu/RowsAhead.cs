namespace MoeSharp;

/// <summary>Rows of operands that are wanted after those at hand, to be asked for a few at a time: a core has few requests to memory under way, and a burst holds up what is being computed.</summary>
/// <param name="first">Row 0.</param>
/// <param name="stride">Bytes between rows.</param>
/// <param name="rows">Numbers of the rows; null where they are 0, 1, 2 and so on.</param>
/// <param name="count">How many there are.</param>
/// <param name="bytes">Of each.</param>
internal unsafe struct RowsAhead(byte* first, nint stride, int* rows, int count, int bytes)
{
    private int _asked;

    /// <summary>How many rows there are.</summary>
    public readonly int Count => count;

    /// <summary>The next so many, as far as there are.</summary>
    public void Ask(int most, bool toSecond = false)
    {
        for (int end = Math.Min(count, _asked + most); _asked < end; _asked++) Prefetch.Bytes(first + stride * (rows == null ? _asked : rows[_asked]), bytes, toSecond);
    }
}
