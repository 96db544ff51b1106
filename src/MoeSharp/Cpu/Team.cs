using System.Runtime.ExceptionServices;

namespace MoeSharp;

/// <summary>Work of many independent tasks. Unmanaged, so that workers can read it from the caller's stack.</summary>
internal interface ITeamJob
{
    /// <summary>Does one task. <paramref name="thread"/> is below the limit of the call and no other thread
    /// has it meanwhile: an index for scratch memory.</summary>
    void Execute(int task, int thread);
}

/// <summary>
/// Persistent worker threads that share out the tasks of one job at a time; the caller works along. Workers spin briefly after a job, since the next
/// stage usually follows at once, then park. Callers from several threads take turns. A call allocates nothing.
/// </summary>
internal sealed unsafe class Team : IDisposable
{
    private const long Open = 1L << 32, Generation = 1L << 33;
    private const int SpinsBeforeParking = 2000;
    private readonly Lock _turn = new();
    private readonly object _park = new();
    private readonly Thread[] _workers;
    // Low half: workers inside the job. Then one bit: workers may enter. Above: the job's number.
    private long _gate;
    private int _parked;
    private bool _disposed;
    private delegate*<void*, int, int, void> _body;
    private void* _job;
    private int _limit, _tasks;
    private PaddedCounter _next;
    private Exception? _failure;

    [System.Runtime.InteropServices.StructLayout(System.Runtime.InteropServices.LayoutKind.Explicit, Size = 192)]
    private struct PaddedCounter
    {
        [System.Runtime.InteropServices.FieldOffset(96)]
        public int Value;
    }

    /// <summary>Starts threads - 1 workers.</summary>
    public Team(int threads)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(threads, 1);
        _workers = new Thread[threads - 1];
        for (int i = 0; i < _workers.Length; i++)
        {
            int index = i + 1;
            _workers[i] = new Thread(() => Work(index)) { IsBackground = true, Name = $"MoeSharp {index}" };
            _workers[i].Start();
        }
    }

    /// <summary>Threads that work on a job, the caller's included.</summary>
    public int Threads => _workers.Length + 1;

    /// <summary>Runs tasks 0 .. tasks - 1, each once, and returns when all are done.</summary>
    /// <param name="limit">At most this many threads; 0 means all.</param>
    /// <exception cref="Exception">The first that a task threw; tasks not yet begun are then skipped.</exception>
    public void Run<TJob>(TJob job, int tasks, int limit = 0) where TJob : unmanaged, ITeamJob
    {
        if (tasks <= 0) return;
        lock (_turn)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            _body = &Invoke<TJob>;
            _job = &job;
            _tasks = tasks;
            _limit = limit > 0 ? limit : Threads;
            _failure = null;
            _next.Value = 0;
            bool alone = tasks == 1 || _limit == 1 || _workers.Length == 0;
            if (!alone) Begin();
            Take(0);
            if (!alone) Finish();
            if (_failure is { } failure) ExceptionDispatchInfo.Throw(failure);
        }
    }

    private static void Invoke<TJob>(void* job, int task, int thread) where TJob : unmanaged, ITeamJob => ((TJob*)job)->Execute(task, thread);

    private void Begin()
    {
        Interlocked.Exchange(ref _gate, ((_gate & -Generation) + Generation) | Open);
        if (Volatile.Read(ref _parked) == 0) return;
        lock (_park) Monitor.PulseAll(_park);
    }

    /// <summary>Closes the gate, so that nobody waits for workers that have not woken up, then waits for those inside.</summary>
    private void Finish()
    {
        Interlocked.And(ref _gate, ~Open);
        var spin = new SpinWait();
        while ((int)Volatile.Read(ref _gate) != 0) spin.SpinOnce(sleep1Threshold: -1);
    }

    private void Take(int thread)
    {
        try
        {
            for (int task; (task = Interlocked.Increment(ref _next.Value) - 1) < _tasks;) _body(_job, task, thread);
        }
        catch (Exception exception)
        {
            Interlocked.CompareExchange(ref _failure, exception, null);
            Volatile.Write(ref _next.Value, int.MaxValue / 2);
        }
    }

    private void Work(int thread)
    {
        long done = 0;
        while (true)
        {
            long gate = Await(done);
            if (_disposed) return;
            done = gate & -Generation;
            if (!TryEnter(done)) continue;
            if (thread < _limit) Take(thread);
            Interlocked.Decrement(ref _gate);
        }
    }

    private bool TryEnter(long generation)
    {
        while (true)
        {
            long gate = Volatile.Read(ref _gate);
            if ((gate & Open) == 0 || (gate & -Generation) != generation) return false;
            if (Interlocked.CompareExchange(ref _gate, gate + 1, gate) == gate) return true;
        }
    }

    private long Await(long done)
    {
        for (int i = 0; i < SpinsBeforeParking; i++)
        {
            if (IsNew(done, out long gate)) return gate;
            Thread.SpinWait(10);
        }
        lock (_park)
        {
            Interlocked.Increment(ref _parked);
            long gate;
            while (!IsNew(done, out gate) && !_disposed) Monitor.Wait(_park);
            Interlocked.Decrement(ref _parked);
            return gate;
        }
    }

    private bool IsNew(long done, out long gate)
    {
        gate = Volatile.Read(ref _gate);
        return (gate & -Generation) != done && (gate & Open) != 0;
    }

    /// <summary>Ends the workers; waits for a job in progress.</summary>
    public void Dispose()
    {
        lock (_turn)
        {
            if (_disposed) return;
            lock (_park)
            {
                _disposed = true;
                Monitor.PulseAll(_park);
            }
        }
        foreach (Thread worker in _workers) worker.Join();
    }
}
