namespace MoeSharp;

/// <summary>Managed SIMD on a team of threads. One instance's team serves all its layers and callers, one job at a time.</summary>
public sealed class CpuBackend : IDisposable
{
    private readonly Lock _start = new();
    private readonly int _threads;
    private Team? _team;
    private bool _disposed;

    /// <summary>Threads start with the first layer.</summary>
    /// <param name="threads">At most this many work on a call, the caller's included; null takes one per processor.</param>
    public CpuBackend(int? threads = null)
    {
        if (threads is < 1) throw new ArgumentOutOfRangeException(nameof(threads), $"threads is {threads}; at least 1 is needed.");
        _threads = threads ?? Environment.ProcessorCount;
    }

    /// <summary>Threads that work on a call.</summary>
    public int Threads => _threads;

    internal Team Team
    {
        get
        {
            lock (_start)
            {
                ObjectDisposedException.ThrowIf(_disposed, this);
                return _team ??= new Team(_threads);
            }
        }
    }

    /// <summary>Ends the threads; layers prepared by this backend cannot run afterwards.</summary>
    public void Dispose()
    {
        lock (_start)
        {
            _disposed = true;
            _team?.Dispose();
        }
    }
}
