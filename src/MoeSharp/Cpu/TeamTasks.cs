using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>Where a thread takes the tasks of a job from: those of its memory node, then what is left of others.</summary>
/// <param name="shares">The node's tasks are in the share of its number.</param>
/// <param name="node">The thread's.</param>
internal ref struct TeamTasks(Span<TeamTasks.Share> shares, int node)
{
    /// <summary>What a thread gets in place of a task when there is none left.</summary>
    public const int None = -1;
    private readonly Span<Share> _shares = shares;
    private int _exhausted;

    /// <summary>Tasks of one node, on cache lines of their own.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    internal struct Share
    {
        [FieldOffset(128)]
        public int Next;
        [FieldOffset(132)]
        public int End;
    }

    /// <summary>The next task, which the caller has to do; <see cref="None"/> where all are taken.</summary>
    public int Take()
    {
        for (; _exhausted < _shares.Length; _exhausted++)
        {
            ref Share share = ref _shares[(node + _exhausted) % _shares.Length];
            int task = Interlocked.Increment(ref share.Next) - 1;
            if (task < share.End) return task;
        }
        return None;
    }

    /// <summary>The task behind the last of a node's share.</summary>
    public static int EndOfShare(int tasks, int nodes, int node) => (int)((long)tasks * (node + 1) / nodes);

    /// <summary>The node whose share a task is in.</summary>
    public static int ShareOf(int task, int tasks, int nodes) => (int)(((task + 1L) * nodes - 1) / tasks);
}
