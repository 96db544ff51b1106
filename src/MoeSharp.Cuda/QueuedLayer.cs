namespace MoeSharp;

/// <summary>A layer as one queue runs it: its sizes, and the argument structs of its last call.</summary>
internal sealed class QueuedLayer
{
    private readonly CudaExperts _experts;
    private readonly DeviceCall _call;
    private readonly PlanTokens _bytes;
    private readonly WorkspacePlan _scratch = new();
    private readonly long _budget;
    private (int Tokens, long Available, int Chunk, long Bytes) _last;

    /// <exception cref="ArgumentException">The experts are not on the queue's GPU.</exception>
    internal QueuedLayer(FusedExperts experts, CudaContext context)
    {
        _experts = experts.Prepared as CudaExperts
            ?? throw new ArgumentException($"The experts run on the {experts.Backend.Name} backend; build them with the CudaBackend of the queue.", nameof(experts));
        if (_experts.Kernels.Context.Ordinal != context.Ordinal)
            throw new ArgumentException($"The experts are on GPU {_experts.Kernels.Context.Ordinal} but the queue is of GPU {context.Ordinal}.", nameof(experts));
        _call = _experts.NewCall();
        _bytes = (tokens, scratch) => new DevicePlan(_experts.Shape, tokens).Bytes(scratch);
        _budget = experts.MaxWorkspaceBytes;
    }

    internal ExpertsShape Shape => _experts.Shape;

    /// <summary>How many tokens at a time fit, and the bytes that they take.</summary>
    /// <exception cref="ArgumentException">The layer's budget does not suffice for one token.</exception>
    /// <exception cref="InvalidOperationException">The memory does not.</exception>
    internal (int Chunk, long Bytes) Fit(int tokens, long available)
    {
        if (_last.Tokens == tokens && _last.Available == available) return (_last.Chunk, _last.Bytes);
        int chunk = WorkspacePool.Chunk(tokens, Math.Min(available, _budget), _bytes, _scratch);
        long bytes = _bytes(Math.Max(chunk, 1), _scratch);
        if (chunk == 0 && bytes > _budget)
            throw new ArgumentException($"MaxWorkspaceBytes is {_budget:N0} but one token alone needs {bytes:N0} on the GPU; raise it.");
        if (chunk == 0)
            throw new InvalidOperationException($"The workspace has {available:N0} bytes but one token needs {bytes:N0}; WorkspaceBytes tells how much a call takes.");
        _last = (tokens, available, chunk, bytes);
        return (chunk, bytes);
    }

    /// <summary>Queues the call, so many tokens at a time, in a workspace that has room for as many.</summary>
    internal void Enqueue(in CudaCall call, int chunk, ulong workspace, nint stream)
    {
        _experts.RequireOpen();
        for (int first = 0; first < call.Tokens; first += chunk)
        {
            int tokens = Math.Min(chunk, call.Tokens - first);
            CudaCall part = call.Slice(first, tokens, Shape);
            _call.Place(tokens, workspace);
            _call.Enqueue((ulong)part.Hidden, (ulong)part.TopkIds, (ulong)part.ExpertMap, (ulong)part.TopkWeights, (ulong)(part.Output | part.OutputF32), part.Output == 0, stream);
        }
        GC.KeepAlive(_experts);
    }
}
