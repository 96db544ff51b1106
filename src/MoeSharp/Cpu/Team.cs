using System.Runtime.ExceptionServices;

namespace MoeSharp;

/// <summary>Work of many independent tasks. Unmanaged, so that workers can read it from the caller's stack.</summary>
internal interface ITeamJob
{
    /// <summary>Does one task. <paramref name="thread"/> is below the limit of the call and no other thread has it meanwhile: an index for scratch memory.</summary>
    void Execute(int task, int thread);
}

/// <summary>Work whose threads take their tasks themselves: to know the next while they are busy with one, or to help others when none is left. Unmanaged, as above.</summary>
internal interface IWorkerJob
{
    /// <summary>Does tasks until there is none left.</summary>
    void Work(ref TeamTasks tasks, int thread);
}

/// <summary>
/// Persistent worker threads that share out the tasks of one job at a time; the caller works along. Workers spin briefly after a job, since the next
/// stage usually follows at once, yielding now and then, and then park. Callers from several threads take turns. A call allocates nothing, and takes no lock unless it must wait
/// for another caller or wake a parked worker. On a machine with several memory nodes a worker stays on one, and each node has its share of the tasks:
/// memory that a task touched first is near when the same share is run again.
/// </summary>
internal sealed unsafe class Team : IDisposable
{
    private const long Open = 1L << 32, Generation = 1L << 33;
    private const int SpinsBeforeParking = 6000, SpinsBetweenYields = 32; // 2.2 ms, so that workers are there when the next layer comes soon, and 12 us
    private readonly Topology _topology;
    private readonly Worker[] _workers;
    private readonly TeamTasks.Share[] _shares;
    private readonly object _queue = new();
    private int _busy, _waiting;
    // Low half: workers inside the job. Then one bit: workers may enter. Above: the job's number.
    private long _gate;
    private volatile bool _disposed;
    private delegate*<void*, ref TeamTasks, int, void> _body;
    private void* _job;
    private int _limit;
    private Exception? _failure;

    /// <summary>A thread, which parks on this object: on a lock that all share, each would wait for those woken before it to let go of it.</summary>
    private sealed class Worker(Thread thread)
    {
        public readonly Thread Thread = thread;
        public int IsParked;
    }

    /// <summary>Starts threads - 1 workers.</summary>
    public Team(int threads) : this(threads, Topology.Machine)
    {
    }

    internal Team(int threads, Topology topology)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(threads, 1);
        _topology = topology;
        _shares = new TeamTasks.Share[Math.Min(topology.Nodes.Count, threads)];
        _workers = new Worker[threads - 1];
        for (int i = 0; i < _workers.Length; i++)
        {
            int index = i + 1;
            _workers[i] = new Worker(new Thread(() => Work(index)) { IsBackground = true, Name = $"MoeSharp {index}" });
            _workers[i].Thread.Start();
        }
    }

    /// <summary>Threads that work on a job, the caller's included.</summary>
    public int Threads => _workers.Length + 1;

    /// <summary>Threads that take part in a job of this limit; 0 means all.</summary>
    public int ThreadsWithin(int limit) => limit > 0 ? Math.Min(limit, Threads) : Threads;

    /// <summary>Memory nodes among which tasks are shared out: task t of n goes to node t * Nodes / n, and to others when they have nothing left to do.</summary>
    public int Nodes => _shares.Length;

    /// <summary>Moves memory to the nodes whose shares of tasks read it. The parts are alike and each is read by tasks from its start to its end.</summary>
    public void Place(byte* memory, long bytes, int parts)
    {
        for (int i = 0; i < parts * Nodes && Nodes > 1; i++)
        {
            nint first = (nint)(bytes * i / (parts * Nodes)), end = (nint)(bytes * (i + 1) / (parts * Nodes));
            _topology.Move((nint)memory + first, end - first, i % Nodes);
        }
    }

    /// <summary>Runs tasks 0 .. tasks - 1, each once, and returns when all are done.</summary>
    /// <param name="limit">At most this many threads; 0 means all.</param>
    /// <exception cref="Exception">The first that a task threw; tasks not yet begun are then skipped.</exception>
    public void Run<TJob>(TJob job, int tasks, int limit = 0) where TJob : unmanaged, ITeamJob => Run(&job, &Execute<TJob>, tasks, limit);

    /// <summary>The same where threads take the tasks themselves.</summary>
    public void RunWorkers<TJob>(TJob job, int tasks, int limit = 0) where TJob : unmanaged, IWorkerJob => Run(&job, &Work<TJob>, tasks, limit);

    private void Run(void* job, delegate*<void*, ref TeamTasks, int, void> body, int tasks, int limit)
    {
        if (tasks <= 0) return;
        if (Interlocked.CompareExchange(ref _busy, 1, 0) != 0) AwaitTurn();
        try
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            _body = body;
            _job = job;
            _limit = ThreadsWithin(limit);
            _failure = null;
            ShareOut(tasks);
            bool alone = tasks == 1 || _limit == 1 || _workers.Length == 0;
            if (!alone) Begin();
            Take(0, _topology.CurrentNode());
            if (!alone) Finish();
            if (_failure is { } failure) ExceptionDispatchInfo.Throw(failure);
        }
        finally
        {
            EndTurn();
        }
    }

    private static void Execute<TJob>(void* job, ref TeamTasks tasks, int thread) where TJob : unmanaged, ITeamJob
    {
        for (int task; (task = tasks.Take()) != TeamTasks.None;) ((TJob*)job)->Execute(task, thread);
    }

    private static void Work<TJob>(void* job, ref TeamTasks tasks, int thread) where TJob : unmanaged, IWorkerJob => ((TJob*)job)->Work(ref tasks, thread);

    private void AwaitTurn()
    {
        lock (_queue)
        {
            Interlocked.Increment(ref _waiting);
            while (Interlocked.CompareExchange(ref _busy, 1, 0) != 0) Monitor.Wait(_queue);
            Interlocked.Decrement(ref _waiting);
        }
    }

    private void EndTurn()
    {
        Interlocked.Exchange(ref _busy, 0);
        if (Volatile.Read(ref _waiting) == 0) return;
        lock (_queue) Monitor.Pulse(_queue);
    }

    private void ShareOut(int tasks)
    {
        for (int n = 0; n < _shares.Length; n++)
        {
            _shares[n].Next = TeamTasks.EndOfShare(tasks, _shares.Length, n - 1);
            _shares[n].End = TeamTasks.EndOfShare(tasks, _shares.Length, n);
        }
    }

    private void Begin()
    {
        Interlocked.Exchange(ref _gate, ((_gate & -Generation) + Generation) | Open);
        WakeParked();
    }

    /// <summary>To be called behind a full fence after what workers wait for.</summary>
    private void WakeParked()
    {
        foreach (Worker worker in _workers)
            if (Volatile.Read(ref worker.IsParked) != 0) lock (worker) Monitor.Pulse(worker);
    }

    /// <summary>Closes the gate, so that nobody waits for workers that have not woken up, then waits for those inside.</summary>
    private void Finish()
    {
        Interlocked.And(ref _gate, ~Open);
        var spin = new SpinWait();
        while ((int)Volatile.Read(ref _gate) != 0) spin.SpinOnce(sleep1Threshold: -1);
    }

    private void Take(int thread, int node)
    {
        try
        {
            var tasks = new TeamTasks(_shares, node);
            _body(_job, ref tasks, thread);
        }
        catch (Exception exception)
        {
            Interlocked.CompareExchange(ref _failure, exception, null);
            foreach (ref TeamTasks.Share share in _shares.AsSpan()) Volatile.Write(ref share.Next, int.MaxValue / 2);
        }
    }

    private void Work(int thread)
    {
        int node = (int)((long)thread * _shares.Length / Threads);
        if (_shares.Length > 1) _topology.Pin(node);
        long done = 0;
        while (true)
        {
            long gate = Await(done, _workers[thread - 1]);
            if (_disposed) return;
            done = gate & -Generation;
            if (!TryEnter(done)) continue;
            if (thread < _limit) Take(thread, node);
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

    private long Await(long done, Worker self)
    {
        for (int i = 0; i < SpinsBeforeParking; i++)
        {
            if (IsNew(done, out long gate)) return gate;
            Thread.SpinWait(10);
            if (i % SpinsBetweenYields == SpinsBetweenYields - 1) Thread.Yield(); // a thread with a task may be queued behind this one, for a millisecond and more
        }
        lock (self)
        {
            Interlocked.Exchange(ref self.IsParked, 1); // a full fence: either the gate is seen to be open here, or this is seen by who opened it
            long gate;
            while (!IsNew(done, out gate) && !_disposed) Monitor.Wait(self);
            self.IsParked = 0;
            return gate;
        }
    }

    private bool IsNew(long done, out long gate)
    {
        gate = Volatile.Read(ref _gate);
        return (gate & -Generation) != done && (gate & Open) != 0;
    }

    /// <summary>Ends the workers; waits for jobs in progress.</summary>
    public void Dispose()
    {
        if (Interlocked.CompareExchange(ref _busy, 1, 0) != 0) AwaitTurn();
        try
        {
            if (_disposed) return;
            _disposed = true;
            Interlocked.MemoryBarrier();
            WakeParked();
        }
        finally
        {
            EndTurn();
        }
        foreach (Worker worker in _workers) worker.Thread.Join();
    }
}
