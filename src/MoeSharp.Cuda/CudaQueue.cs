using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>
/// A stream of the caller's, with the workspace of all layers that run on it: the way in for tensors that are on the GPU already. A call queues its kernels and returns; nothing
/// is copied and nothing waited for, and the thread's current context stays as it was. A capturing stream records the call into its graph, which then replays under
/// any routing. One thread at a time.
/// </summary>
public sealed class CudaQueue : IDisposable
{
    private const int Alignment = 128;
    private readonly CudaContext _context;
    private readonly nint _stream;
    private readonly ulong _given;
    private readonly long _givenBytes;
    private readonly ConditionalWeakTable<object, QueuedLayer> _layers = [];
    private readonly List<IDisposable> _captured = [];
    private DeviceBuffer? _own;
    private Handoff? _handoff;
    private int _inUse;
    private bool _disposed;

    /// <summary>Binds a stream, with a workspace that grows with the calls: the first one of its size allocates, or <c>Reserve</c> before.</summary>
    /// <param name="gpu">The backend of the layers.</param>
    /// <param name="stream">CUstream of the GPU's primary context, the one that the CUDA runtime uses; 0 is the default stream. It must outlive this object's calls.</param>
    /// <exception cref="ArgumentException">The stream belongs to another context.</exception>
    /// <exception cref="CudaException">No driver, or no such GPU; the message says which.</exception>
    public CudaQueue(CudaBackend gpu, nint stream)
    {
        ArgumentNullException.ThrowIfNull(gpu);
        gpu.SupportsDevice().ThrowIfNot();
        _context = gpu.Context();
        _stream = stream;
        using CudaContext.Scope scope = _context.Enter();
        CudaStream.RequireContext(stream, _context);
    }

    /// <summary>Same, with a workspace of the caller's; calls that need more run in chunks of tokens, with the same bits.</summary>
    /// <param name="gpu">The backend of the layers.</param>
    /// <param name="stream">CUstream, or 0.</param>
    /// <param name="workspace">Device memory at a multiple of 128 bytes, of this queue alone while its calls are under way.</param>
    /// <param name="workspaceBytes">Its size.</param>
    /// <exception cref="ArgumentException">The stream or the memory belongs elsewhere.</exception>
    public CudaQueue(CudaBackend gpu, nint stream, nint workspace, long workspaceBytes) : this(gpu, stream)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(workspaceBytes);
        using CudaContext.Scope scope = _context.Enter();
        DevicePointer.Require(_context, workspace, Alignment, nameof(workspace));
        _given = (ulong)workspace;
        _givenBytes = workspaceBytes;
    }

    /// <summary>Exact bytes of workspace that a call with this many tokens takes: all at once, or of its longest chunk where the experts' MaxWorkspaceBytes or the caller's
    /// workspace is smaller.</summary>
    public long WorkspaceBytes(FusedExperts experts, int tokens) => WorkspaceBytes(Layer(experts), tokens);

    /// <summary>Same for a layer with its shared experts.</summary>
    public long WorkspaceBytes(MoeLayer layer, int tokens) => WorkspaceBytes(Layer(layer), tokens);

    private long WorkspaceBytes(QueuedLayer layer, int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        return layer.Fit(tokens, Available).Bytes;
    }

    /// <summary>Makes room for calls of up to this many tokens, so that none of them allocates. Needed before the stream captures, unless such a call ran before; with a workspace of the caller's a capture works
    /// without, but few tokens then take three launches instead of one.</summary>
    /// <exception cref="CudaException">The GPU's memory does not suffice; the message says how much was asked for and how much is free.</exception>
    /// <exception cref="InvalidOperationException">The stream captures.</exception>
    public void Reserve(FusedExperts experts, int tokens) => Reserve(Layer(experts), tokens);

    /// <summary>Same for a layer with its shared experts.</summary>
    public void Reserve(MoeLayer layer, int tokens) => Reserve(Layer(layer), tokens);

    private void Reserve(QueuedLayer layer, int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        Enter();
        try
        {
            using CudaContext.Scope scope = _context.Enter();
            bool isCapturing = CudaStream.IsCapturing(_stream);
            Room(layer.Fit(tokens, Available).Bytes, tokens, isCapturing);
            HandoffFor(layer, isCapturing);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Queues the routed experts; the output is written completely, with zeros where no expert is local.</summary>
    /// <exception cref="ArgumentException">A pointer is missing, misaligned, or not of this GPU; nothing was queued.</exception>
    /// <exception cref="InvalidOperationException">The workspace is too small for one token, the stream captures and there is no workspace yet, or another thread is in a call.</exception>
    /// <exception cref="CudaException">The driver refused, the GPU's memory does not suffice, or a kernel failed earlier.</exception>
    public void Forward(FusedExperts experts, in CudaCall call) => Forward(Layer(experts), call);

    /// <summary>Queues routed and shared experts under the caller's routing; the layer brings its own expert map where it has one.</summary>
    /// <exception cref="ArgumentException">A pointer is missing, misaligned, or not of this GPU; nothing was queued.</exception>
    /// <exception cref="InvalidOperationException">As above.</exception>
    /// <exception cref="CudaException">The driver refused, the GPU's memory does not suffice, or a kernel failed earlier.</exception>
    public void Forward(MoeLayer layer, in CudaCall call) => Forward(Layer(layer), call);

    private void Forward(QueuedLayer layer, in CudaCall call)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(call.Tokens);
        if (call.Tokens == 0) return;
        Enter();
        try
        {
            using CudaContext.Scope scope = _context.Enter();
            layer.Check(call, _context);
            (int chunk, long bytes) = layer.Fit(call.Tokens, Available);
            bool isCapturing = CudaStream.IsCapturing(_stream);
            layer.Enqueue(call, chunk, Room(bytes, chunk, isCapturing), HandoffFor(layer, isCapturing), _stream);
        }
        finally
        {
            Leave();
        }
    }

    private long Available => _given == 0 ? long.MaxValue : _givenBytes;

    private QueuedLayer Layer(object experts)
    {
        ArgumentNullException.ThrowIfNull(experts);
        ObjectDisposedException.ThrowIf(_disposed, this);
        return _layers.TryGetValue(experts, out QueuedLayer? layer) ? layer : Add(experts);
    }

    private QueuedLayer Add(object experts)
    {
        using CudaContext.Scope scope = _context.Enter();
        QueuedLayer layer = experts is MoeLayer whole ? new(whole, _context, CudaStream.IsCapturing(_stream)) : new((FusedExperts)experts, _context);
        _layers.Add(experts, layer);
        return layer;
    }

    /// <summary>A workspace of at least so many bytes. What a graph has captured stays until the end.</summary>
    private ulong Room(long bytes, int tokens, bool isCapturing)
    {
        if (_given != 0) return _given;
        if (_own is null || _own.Bytes < bytes)
        {
            if (isCapturing)
                throw new InvalidOperationException($"The stream captures and the workspace of {bytes:N0} bytes for {tokens} tokens is not there yet; call Reserve before the capture.");
            Retire(_own);
            _own = null;
            _own = new DeviceBuffer(_context, bytes, $"the workspace of {tokens} tokens");
        }
        if (isCapturing) Keep(_own);
        return _own.Address;
    }

    /// <summary>Large enough for the layer, unless the stream captures, when nothing is allocated: few tokens take three launches then.</summary>
    private Handoff? HandoffFor(QueuedLayer layer, bool isCapturing)
    {
        if (!isCapturing && layer.HandoffBytes > (_handoff?.SideBytes ?? 0))
        {
            Retire(_handoff);
            _handoff = null;
            _handoff = new Handoff(_context, layer.HandoffBytes);
        }
        if (isCapturing && _handoff is not null) Keep(_handoff);
        return _handoff;
    }

    /// <summary>Frees memory that has become too small, after the calls that use it; what a graph has captured stays.</summary>
    private void Retire(IDisposable? memory)
    {
        if (memory is null || _captured.Contains(memory)) return;
        Native.Check(Native.cuStreamSynchronize(_stream));
        memory.Dispose();
    }

    /// <summary>A graph captures it.</summary>
    private void Keep(IDisposable memory)
    {
        if (!_captured.Contains(memory)) _captured.Add(memory);
    }

    private void Enter()
    {
        if (Interlocked.Exchange(ref _inUse, 1) != 0)
            throw new InvalidOperationException("This queue is in a call of another thread; give each thread a queue of its own.");
    }

    private void Leave() => Volatile.Write(ref _inUse, 0);

    /// <summary>Frees the library's workspace, after the work that uses it; graphs captured with it must not be launched any more. The stream stays as it is.</summary>
    public void Dispose()
    {
        _disposed = true;
        _own?.Dispose();
        _handoff?.Dispose();
        foreach (IDisposable buffer in _captured) buffer.Dispose();
    }
}
