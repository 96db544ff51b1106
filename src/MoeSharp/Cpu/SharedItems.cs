using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>The items of a task (parts, or experts' rows), which its owner and threads that have no task left take one by one. One per thread, on a cache line of its own.</summary>
[StructLayout(LayoutKind.Explicit, Size = 128)]
internal struct SharedItems
{
    /// <summary>What <see cref="Take"/> gives where there is none left.</summary>
    public const int None = -1;

    // Upper half: the task's number + 1, 0 before the first. Lower half: the next item. Together, so that nobody takes an item of a task that has ended meanwhile.
    [FieldOffset(0)]
    private long _next;
    [FieldOffset(8)]
    private int _done;

    /// <summary>The owner's task; negative before its first.</summary>
    public readonly int Task => (int)(Volatile.Read(in _next) >> 32) - 1;

    /// <summary>The owner begins a task, after the end of all items of the one before. It may have taken the first so many.</summary>
    public void Begin(int task, int taken = 0)
    {
        _done = 0;
        Volatile.Write(ref _next, (long)(task + 1) << 32 | (uint)taken);
    }

    /// <summary>The next of a task's items, whose end the caller must tell; <see cref="None"/> where all are taken.</summary>
    public int Take(int task, int count)
    {
        while (true)
        {
            long next = Volatile.Read(ref _next);
            if ((int)(next >> 32) != task + 1 || (int)next >= count) return None;
            if (Interlocked.CompareExchange(ref _next, next + 1, next) == next) return (int)next;
        }
    }

    /// <summary>To be called by who took an item when it is done.</summary>
    public void End() => Interlocked.Increment(ref _done);

    /// <summary>Returns when all items are done.</summary>
    public readonly void Wait(int count)
    {
        var spin = new SpinWait();
        while (Volatile.Read(in _done) < count) spin.SpinOnce(sleep1Threshold: -1);
    }
}
