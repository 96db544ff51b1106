namespace MoeSharp;

/// <summary>
/// Scratch memory of one call at a time, shareable by all layers it fits; a second concurrent use throws. Contents are unspecified between calls.
/// </summary>
public sealed class Workspace : IDisposable
{
    private readonly NativeBuffer _buffer;
    private int _inUse;

    /// <summary>Allocates this many bytes; ask <see cref="FusedExperts.PlanWorkspace"/> how many are needed.</summary>
    public Workspace(long bytes) => _buffer = new NativeBuffer(bytes, hugePages: bytes >= 4 << 20);

    /// <summary>Size in bytes.</summary>
    public long Bytes => _buffer.Bytes;

    /// <summary>The table of the call in progress.</summary>
    internal WorkspacePlan Plan { get; } = new();

    /// <summary>Fills everything with 0xFF (NaN in every float format): for tests that prove stale contents are never read.</summary>
    internal void Poison() => Raw().Fill(0xFF);

    internal unsafe Span<T> Span<T>(int row) where T : unmanaged
    {
        WorkspaceRow r = Plan.Rows[row];
        return _buffer.Span<T>(r.Offset, checked((int)(r.Bytes / sizeof(T))));
    }

    internal unsafe T* Pointer<T>(int row) where T : unmanaged => (T*)(_buffer.Pointer + Plan.Rows[row].Offset);

    /// <summary>Memory outside the plan: an owner of several steps keeps its own at the end of the buffer.</summary>
    internal Span<T> Span<T>(long byteOffset, int count) where T : unmanaged => _buffer.Span<T>(byteOffset, count);

    internal void Enter()
    {
        ObjectDisposedException.ThrowIf(_buffer.IsClosed, this);
        if (Interlocked.Exchange(ref _inUse, 1) != 0)
            throw new InvalidOperationException("This workspace is in use by another call; give each concurrent call a workspace of its own.");
    }

    internal void Leave() => Volatile.Write(ref _inUse, 0);

    private unsafe Span<byte> Raw() => new(_buffer.Pointer, checked((int)Math.Min(Bytes, int.MaxValue)));

    /// <summary>Frees the memory.</summary>
    public void Dispose() => _buffer.Dispose();
}
