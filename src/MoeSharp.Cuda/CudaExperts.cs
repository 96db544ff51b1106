using System.Collections.Concurrent;

namespace MoeSharp;

/// <summary>One layer's experts on one GPU. Concurrent callers get a stream and a workspace each.</summary>
internal sealed class CudaExperts : IPreparedExperts
{
    private readonly KernelSet _kernels;
    private readonly ExpertsShape _shape;
    private readonly ConcurrentBag<DeviceCall> _idle = [];
    private readonly PlanTokens _hostBytes;
    private readonly Lock _keep = new();
    private DeviceBuffer? _kept;

    [ThreadStatic] private static WorkspacePlan? t_scratch;

    internal CudaExperts(KernelSet kernels, ExpertsShape shape, ExpertWeights weights, bool allowNaN, LoadContext context = default)
    {
        _kernels = kernels;
        _shape = shape;
        _hostBytes = (tokens, scratch) => DeviceCall.HostBytes(shape, tokens, scratch);
        Weights = new DeviceWeights(kernels, weights, allowNaN, context, shape.Activations);
    }

    internal DeviceWeights Weights { get; }

    /// <inheritdoc/>
    public string Description =>
        $"WGMMA {Products}, kernels of NVRTC {_kernels.Build}, on {_kernels.Context.Name} (GPU {_kernels.Context.Ordinal})";

    private string Products => (WideKernels.Serve(_shape.Format, _shape.Activations), _shape.Format) switch
    {
        (false, _) => "FP8 with promotion per 128",
        (_, WeightFormat.Bf16) => "BF16",
        (_, WeightFormat.MxFp8) => "BF16 with MXFP8 weights decoded in registers",
        _ => "BF16 with FP8 weights decoded in registers, promotion per 128",
    };

    /// <summary>Nothing on the host: the workspace lies on the device.</summary>
    public void Plan(WorkspacePlan plan, int tokens)
    {
    }

    /// <inheritdoc/>
    public void Run(in ExpertsCall call, Workspace workspace)
    {
        int chunk = Chunk(call.Tokens, call.MaxWorkspaceBytes);
        DeviceCall device = Rent();
        try
        {
            device.Run(call, chunk);
        }
        finally
        {
            _idle.Add(device);
        }
    }

    internal KernelSet Kernels => _kernels;

    internal ExpertsShape Shape => _shape;

    /// <summary>As many tokens at a time as the budget allows.</summary>
    private int Chunk(int tokens, long budget)
    {
        if (budget == 0) return tokens;
        WorkspacePlan scratch = t_scratch ??= new();
        int chunk = WorkspacePool.Chunk(tokens, budget, _hostBytes, scratch);
        if (chunk > 0) return chunk;
        throw new ArgumentException($"MaxWorkspaceBytes is {budget:N0} but one token alone needs {_hostBytes(1, scratch):N0} on the GPU; raise it.");
    }

    internal DeviceCall Rent() => _idle.TryTake(out DeviceCall? device) ? device : NewCall();

    internal DeviceCall NewCall() => new(_kernels, Weights, _shape);

    /// <summary>Device address of a small vector that stays with the weights (an expert map, a gate), copied when first asked for; there is one at most.</summary>
    /// <exception cref="InvalidOperationException">It is not there yet and the stream captures.</exception>
    internal ulong Keep<T>(ReadOnlySpan<T> values, string what, bool isCapturing) where T : unmanaged
    {
        lock (_keep)
        {
            if (_kept is null)
            {
                if (isCapturing) throw new InvalidOperationException($"The stream captures and {what} is not on the GPU yet; call Reserve before the capture.");
                using var stream = new CudaStream(_kernels.Context);
                var buffer = new DeviceBuffer(_kernels.Context, (long)values.Length * System.Runtime.CompilerServices.Unsafe.SizeOf<T>(), what);
                buffer.Upload(values, stream);
                stream.Synchronize();
                _kept = buffer;
            }
            return _kept.Address;
        }
    }

    /// <exception cref="ObjectDisposedException">The weights are gone.</exception>
    internal void RequireOpen() => _ = Weights.Memory.Raw;

    public void Dispose()
    {
        while (_idle.TryTake(out DeviceCall? device)) device.Dispose();
        _kept?.Dispose();
        Weights.Dispose();
    }
}
