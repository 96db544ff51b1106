using System.Collections.Concurrent;

namespace MoeSharp;

/// <summary>Fills a plan for a token count; returns the bytes that a call then takes.</summary>
internal delegate long PlanTokens(int tokens, WorkspacePlan plan);

/// <summary>Up to four workspaces of one layer for callers that bring none, and the rule by which a byte budget cuts calls into chunks of
/// tokens.</summary>
internal sealed class WorkspacePool(PlanTokens plan, long budget) : IDisposable
{
    private const int Kept = 4;
    private readonly ConcurrentQueue<Workspace> _free = new();

    /// <summary>Bytes that a call with this many tokens takes: all at once, or of its longest chunk.</summary>
    public long Bytes(int tokens, WorkspacePlan scratch) => Longest(tokens, budget, plan, scratch).Bytes;

    /// <summary>The longest run of tokens that fits: all of them, or what bisection finds. 0 when not even one does. <paramref name="filled"/> has its plan then.</summary>
    public int Chunk(int tokens, long available, WorkspacePlan filled) => Chunk(tokens, Math.Min(available, budget), plan, filled);

    /// <summary>Same for any plan.</summary>
    public static int Chunk(int tokens, long limit, PlanTokens plan, WorkspacePlan filled) => Longest(tokens, limit, plan, filled).Tokens;

    private static (int Tokens, long Bytes) Longest(int tokens, long limit, PlanTokens plan, WorkspacePlan filled)
    {
        long bytes = plan(tokens, filled);
        if (bytes <= limit) return (tokens, bytes);
        int low = 0, high = tokens; // low fits, high does not
        while (high - low > 1)
        {
            int middle = low + (high - low) / 2;
            if (plan(middle, filled) <= limit) low = middle;
            else high = middle;
        }
        return (low, plan(low, filled));
    }

    /// <summary>A free workspace that is large enough, or a new one.</summary>
    public Workspace Rent(int tokens)
    {
        if (!_free.TryDequeue(out Workspace? workspace)) return new Workspace(Bytes(tokens, new()));
        if (workspace.Bytes >= Bytes(tokens, workspace.Plan)) return workspace;
        workspace.Dispose();
        return new Workspace(Bytes(tokens, new()));
    }

    public void Return(Workspace workspace)
    {
        if (_free.Count < Kept) _free.Enqueue(workspace);
        else workspace.Dispose();
    }

    public void Dispose()
    {
        while (_free.TryDequeue(out Workspace? workspace)) workspace.Dispose();
    }
}
