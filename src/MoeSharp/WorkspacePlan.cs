namespace MoeSharp;

/// <summary>The seven steps, in the order in which data passes through them.</summary>
public enum Step : byte
{
    /// <summary>Router logits to top-k ids and weights.</summary>
    Route = 1,
    /// <summary>BF16 rows to E4M3 and scales.</summary>
    Quantize,
    /// <summary>Rows grouped by expert.</summary>
    Permute,
    /// <summary>Grouped GEMM with gate and up.</summary>
    GateUp,
    /// <summary>Gated activation and requantization.</summary>
    Activate,
    /// <summary>Grouped GEMM with down.</summary>
    Down,
    /// <summary>Unpermute, weight, sum over top-k.</summary>
    Combine,
}

/// <summary>Element types of workspace rows.</summary>
public enum ElementType : byte
{
    /// <summary>One byte: E4M3 codes, E8M0 scales, packed bytes.</summary>
    U8,
    /// <summary>BF16.</summary>
    BF16,
    /// <summary>32-bit integer.</summary>
    I32,
    /// <summary>FP32.</summary>
    F32,
}

/// <summary>One buffer of a workspace: its shape, the steps that need it, and where it lies.</summary>
public readonly record struct WorkspaceRow(string Name, ElementType Type, long Dim0, long Dim1, Step First, Step Last, long Offset)
{
    /// <summary>Bytes, without padding.</summary>
    public long Bytes => checked(Dim0 * Dim1 * (Type switch { ElementType.U8 => 1, ElementType.BF16 => 2, _ => 4 }));
}

/// <summary>
/// The buffers of one call as a table, placed in one allocation; buffers whose steps do not overlap share bytes. Known exactly before anything is
/// allocated. Reused from call to call so that planning allocates nothing.
/// </summary>
public sealed class WorkspacePlan
{
    private WorkspaceRow[] _rows = new WorkspaceRow[16];
    private int _count;

    /// <summary>Buffers start at multiples of this.</summary>
    public const int Alignment = 64;

    /// <summary>The placed buffers.</summary>
    public ReadOnlySpan<WorkspaceRow> Rows => _rows.AsSpan(0, _count);

    /// <summary>Exact size of the one allocation.</summary>
    public long Bytes { get; private set; }

    /// <summary>Forgets all rows.</summary>
    public void Clear()
    {
        _count = 0;
        Bytes = 0;
    }

    /// <summary>Adds a buffer [dim0, dim1] that must stay intact from step <paramref name="first"/> to step <paramref name="last"/>; returns its
    /// index.</summary>
    public int Add(string name, ElementType type, long dim0, long dim1, Step first, Step last)
    {
        if (_count == _rows.Length) Array.Resize(ref _rows, 2 * _count);
        var row = new WorkspaceRow(name, type, dim0, dim1, first, last, 0);
        row = row with { Offset = LowestFreeOffset(row) };
        _rows[_count] = row;
        Bytes = Math.Max(Bytes, checked(row.Offset + Padded(row.Bytes)));
        return _count++;
    }

    /// <summary>First fit among the rows alive at the same time: the candidates are 0 and the ends of those rows.</summary>
    private long LowestFreeOffset(in WorkspaceRow row)
    {
        long best = Fits(row, 0) ? 0 : long.MaxValue;
        for (int i = 0; i < _count; i++)
        {
            long end = _rows[i].Offset + Padded(_rows[i].Bytes);
            if (end < best && Overlaps(_rows[i], row) && Fits(row, end)) best = end;
        }
        return best;
    }

    private bool Fits(in WorkspaceRow row, long offset)
    {
        long end = checked(offset + Padded(row.Bytes));
        for (int i = 0; i < _count; i++)
        {
            long otherEnd = _rows[i].Offset + Padded(_rows[i].Bytes);
            if (Overlaps(_rows[i], row) && offset < otherEnd && _rows[i].Offset < end) return false;
        }
        return true;
    }

    private static bool Overlaps(in WorkspaceRow a, in WorkspaceRow b) => a.First <= b.Last && b.First <= a.Last;

    private static long Padded(long bytes) => checked((bytes + Alignment - 1) / Alignment * Alignment);
}
