namespace MoeSharp;

/// <summary>A layer as one queue runs it: its sizes, and the argument structs of its last call. Shared experts are a second call in the same workspace, whose results the last
/// step of the first one adds as one more slot.</summary>
internal sealed class QueuedLayer
{
    private const int Alignment = 256;
    private readonly CudaExperts _experts;
    private readonly CudaExperts? _shared;
    private readonly DeviceCall _call;
    private readonly DeviceCall? _sharedCall;
    private readonly ulong _map, _gate;
    private readonly PlanTokens _bytes;
    private readonly WorkspacePlan _scratch = new();
    private readonly long _budget;
    private (int Tokens, long Available, int Chunk, long Bytes) _last;

    /// <exception cref="ArgumentException">The experts are not on the queue's GPU.</exception>
    internal QueuedLayer(FusedExperts experts, CudaContext context)
    {
        _experts = OnGpu(experts, context);
        _call = _experts.NewCall();
        _bytes = BytesOf;
        _budget = experts.MaxWorkspaceBytes;
        HandoffBytes = new FewPlan(Shape).HandoffBytes;
    }

    /// <exception cref="InvalidOperationException">The stream captures, and the layer has something to copy first.</exception>
    internal QueuedLayer(MoeLayer layer, CudaContext context, bool isCapturing) : this(layer.Experts, context)
    {
        if (layer.ExpertMap is { } map) _map = _experts.Keep<int>(map, "the expert map", isCapturing);
        if (layer.SharedExperts is null) return;
        _shared = OnGpu(layer.SharedExperts, context);
        _sharedCall = _shared.NewCall();
        HandoffBytes = Math.Max(HandoffBytes, new FewPlan(_shared.Shape).HandoffBytes);
        if (layer.SharedGate is { } gate) _gate = _shared.Keep<float>(Padded(gate), "the gate of the shared experts", isCapturing);
    }

    internal ExpertsShape Shape => _experts.Shape;

    /// <summary>Bytes of a side of <see cref="Handoff"/> with which few tokens take one launch.</summary>
    internal long HandoffBytes { get; }

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

    /// <summary>Throws unless everything is there, aligned, and memory of this GPU.</summary>
    internal void Check(in CudaCall call, CudaContext context)
    {
        if (_shared is not null && call.QuantizedHidden != 0) throw new ArgumentException("A layer with shared experts takes hidden states in BF16; give those.");
        WithMap(call).Check(Shape, context);
    }

    /// <summary>Queues the call, so many tokens at a time, in a workspace that has room for as many.</summary>
    internal void Enqueue(in CudaCall call, int chunk, ulong workspace, Handoff? handoff, nint stream)
    {
        _experts.RequireOpen();
        _shared?.RequireOpen();
        for (int first = 0; first < call.Tokens; first += chunk)
            Enqueue(WithMap(call).Slice(first, Math.Min(chunk, call.Tokens - first), Shape), workspace, handoff, stream);
        GC.KeepAlive(_experts);
        GC.KeepAlive(_shared);
    }

    private void Enqueue(in CudaCall call, ulong workspace, Handoff? handoff, nint stream)
    {
        SharedRows shared = _sharedCall is null ? default : EnqueueShared(call, workspace + (ulong)RoutedBytes(call.Tokens), handoff, stream);
        _call.Place(call.Tokens, workspace);
        var hidden = new HiddenRows((ulong)call.Hidden, (ulong)call.QuantizedHidden, (ulong)call.HiddenScales);
        var routes = new Routes((ulong)call.TopkIds, (ulong)call.ExpertMap, (ulong)call.TopkWeights);
        _call.Enqueue(hidden, routes, new((ulong)(call.Output | call.OutputF32), call.Output == 0, shared), handoff, stream);
    }

    /// <summary>One expert that every token passes; its workspace begins with ids (zeros) and weights [T].</summary>
    private SharedRows EnqueueShared(in CudaCall call, ulong workspace, Handoff? handoff, nint stream)
    {
        long perToken = Padded(4L * call.Tokens);
        ulong ids = workspace, weights = _gate == 0 ? 0 : ids + (ulong)perToken;
        Native.Check(Native.cuMemsetD8Async(ids, 0, (nuint)perToken, stream));
        _sharedCall!.Place(call.Tokens, workspace + 2 * (ulong)perToken);
        if (weights != 0) _shared!.Kernels.EnqueueSharedGate((ulong)call.Hidden, _gate, weights, call.Tokens, Shape.Hidden, stream);
        _sharedCall.EnqueueExperts(new((ulong)call.Hidden), new(ids, 0, 0), handoff, stream);
        return _sharedCall.Shared(weights);
    }

    private static float[] Padded(RowDots gate)
    {
        var values = new float[gate.Stride];
        gate.CopyTo(values);
        return values;
    }

    private CudaCall WithMap(in CudaCall call) => call.ExpertMap == 0 ? call with { ExpertMap = (nint)_map } : call;

    private long BytesOf(int tokens, WorkspacePlan scratch) => _shared is null
        ? new DevicePlan(Shape, tokens).Bytes(scratch)
        : Padded(new DevicePlan(Shape, tokens).Bytes(scratch)) + 2 * Padded(4L * tokens) + new DevicePlan(_shared.Shape, tokens).Bytes(scratch);

    private long RoutedBytes(int tokens) => Padded(new DevicePlan(Shape, tokens).Bytes(_scratch));

    private static long Padded(long bytes) => (bytes + Alignment - 1) / Alignment * Alignment;

    private static CudaExperts OnGpu(FusedExperts experts, CudaContext context)
    {
        CudaExperts cuda = experts.Prepared as CudaExperts
            ?? throw new ArgumentException($"The experts run on the {experts.Backend.Name} backend; build them with the CudaBackend of the queue.", nameof(experts));
        if (cuda.Kernels.Context.Ordinal == context.Ordinal) return cuda;
        throw new ArgumentException($"The experts are on GPU {cuda.Kernels.Context.Ordinal} but the queue is of GPU {context.Ordinal}.", nameof(experts));
    }
}
