namespace MoeSharp;

/// <summary>
/// A router on a GPU: ids and weights of experts without leaving the device, with the bits of <see cref="Router"/>. Calls queue one or two kernels on a stream and
/// return; nothing is allocated, copied or waited for, so they may be captured into graphs. Several threads may call at the same time. T tokens, H hidden, E experts, K top-k.
/// </summary>
public sealed class CudaRouter : IDisposable
{
    private const int Threads = 128, WarpsPerBlock = Threads / 32, MostSharedBytes = 48 * 1024;
    private const int FewTokens = 16, TileTokens = 32, TileExperts = 16, FewExperts = 32; // as in kernels/route.cu
    private readonly CudaContext _context;
    private readonly KernelSet _kernels;
    private readonly CudaKernel _logits, _logitsFew, _select;
    private readonly DeviceBuffer _memory; // [weight | logit bias | correction bias]
    private readonly LogitsArguments _logitsOf;
    private readonly SelectArguments _selectOf;

    /// <summary>Copies the router's weight and biases to the GPU; the router is not used afterwards.</summary>
    /// <exception cref="UnsupportedException">No usable GPU, or more experts than its kernels take (some 1,500).</exception>
    /// <exception cref="CudaException">The driver refused, or the GPU's memory does not suffice.</exception>
    public CudaRouter(CudaBackend gpu, Router router)
    {
        ArgumentNullException.ThrowIfNull(gpu);
        ArgumentNullException.ThrowIfNull(router);
        gpu.SupportsDevice().ThrowIfNot();
        RouterOptions options = router.Options;
        int warpWords = 2 * options.Experts + 2 * options.TopK + 3 * options.Groups;
        if (4L * warpWords * WarpsPerBlock > MostSharedBytes)
            throw new UnsupportedException($"{options.Experts} experts with top-k {options.TopK} in {options.Groups} groups are more than the GPU's router takes; route on the CPU.");
        _kernels = gpu.Kernels();
        _context = _kernels.Context;
        CudaModule module = _kernels.Load("route");
        _logits = module.Kernel("route_logits", Threads);
        _logitsFew = module.Kernel("route_logits_few", Threads);
        _select = module.Kernel("route_select", Threads);
        int stride = router.PaddedHiddenSize;
        long weightBytes = 4L * router.Experts * stride, biasBytes = 4L * router.Experts;
        _memory = new DeviceBuffer(_context, weightBytes + 2 * biasBytes, "the router's weight");
        try
        {
            Upload(router, weightBytes, biasBytes);
        }
        catch
        {
            _memory.Dispose();
            throw;
        }
        ulong logitBias = _memory.Address + (ulong)weightBytes, correctionBias = logitBias + (ulong)biasBytes;
        _logitsOf = new()
        {
            Weight = _memory.Address,
            Bias = router.LogitBias.IsEmpty ? 0 : logitBias,
            HiddenSize = router.HiddenSize,
            Stride = stride,
            Experts = router.Experts,
        };
        _selectOf = new()
        {
            CorrectionBias = router.CorrectionBias.IsEmpty ? 0 : correctionBias,
            Experts = options.Experts,
            TopK = options.TopK,
            Scoring = (int)options.Scoring,
            Groups = options.Groups,
            TopkGroups = options.TopkGroups,
            Renormalize = options.Renormalize ? 1 : 0,
            Epsilon = options.RenormalizeEpsilon,
            Minimum = options.RenormalizeMinimum,
            Scaling = options.ScalingFactor,
            WarpWords = warpWords,
        };
    }

    /// <summary>Queues logits and selection.</summary>
    /// <param name="stream">CUstream of the GPU's primary context; 0 is the default stream.</param>
    /// <param name="tokens">T; 0 does nothing.</param>
    /// <param name="hidden">[T, H] BF16 on the GPU, at a multiple of 16 bytes.</param>
    /// <param name="logits">[T, E] FP32 on the GPU, written: this call's alone until the stream has passed it.</param>
    /// <param name="ids">[T, K] 32-bit on the GPU, written: experts in descending order of their selection score.</param>
    /// <param name="weights">[T, K] FP32 on the GPU, written.</param>
    /// <exception cref="ArgumentException">A pointer is missing, misaligned, or not of this GPU, or the stream is of another context; nothing was queued.</exception>
    /// <exception cref="CudaException">The driver refused, or a kernel failed earlier.</exception>
    public void Route(nint stream, int tokens, nint hidden, nint logits, nint ids, nint weights)
    {
        if (!Check(stream, tokens, logits, ids, weights)) return;
        using CudaContext.Scope scope = _context.Enter();
        DevicePointer.Require(_context, hidden, 16, nameof(hidden));
        _kernels.RequireHealth(stream);
        LogitsArguments arguments = _logitsOf with { Hidden = (ulong)hidden, Logits = (ulong)logits, Tokens = tokens };
        int experts = arguments.Experts;
        if (tokens < FewTokens) _logitsFew.Launch(arguments, checked(tokens * Formats.Blocks(experts, FewExperts)), stream);
        else _logits.Launch(arguments, checked(Formats.Blocks(tokens, TileTokens) * Formats.Blocks(experts, TileExperts)), stream);
        Queue(stream, tokens, logits, ids, weights);
    }

    /// <summary>Queues the selection alone, for logits that the caller has. A NaN logit counts as -Inf.</summary>
    /// <param name="stream">CUstream of the GPU's primary context; 0 is the default stream.</param>
    /// <param name="tokens">T; 0 does nothing.</param>
    /// <param name="logits">[T, E] FP32 on the GPU, with logit biases if the model has them.</param>
    /// <param name="ids">[T, K] 32-bit on the GPU, written: experts in descending order of their selection score.</param>
    /// <param name="weights">[T, K] FP32 on the GPU, written.</param>
    /// <exception cref="ArgumentException">A pointer is missing, misaligned, or not of this GPU, or the stream is of another context; nothing was queued.</exception>
    /// <exception cref="CudaException">The driver refused, or a kernel failed earlier.</exception>
    public void Select(nint stream, int tokens, nint logits, nint ids, nint weights)
    {
        if (!Check(stream, tokens, logits, ids, weights)) return;
        using CudaContext.Scope scope = _context.Enter();
        _kernels.RequireHealth(stream);
        Queue(stream, tokens, logits, ids, weights);
    }

    private void Queue(nint stream, int tokens, nint logits, nint ids, nint weights)
    {
        SelectArguments arguments = _selectOf with { Logits = (ulong)logits, Ids = (ulong)ids, Weights = (ulong)weights, Tokens = tokens };
        _select.Launch(arguments, Formats.Blocks(tokens, WarpsPerBlock), stream, dynamicShared: 4 * WarpsPerBlock * arguments.WarpWords);
        _kernels.Check(Step.Route, stream);
    }

    private bool Check(nint stream, int tokens, nint logits, nint ids, nint weights)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        ObjectDisposedException.ThrowIf(_memory.IsClosed, this);
        if (tokens == 0) return false;
        using CudaContext.Scope scope = _context.Enter();
        CudaStream.RequireContext(stream, _context);
        DevicePointer.Require(_context, logits, 4, nameof(logits));
        DevicePointer.Require(_context, ids, 4, nameof(ids));
        DevicePointer.Require(_context, weights, 4, nameof(weights));
        return true;
    }

    private void Upload(Router router, long weightBytes, long biasBytes)
    {
        using var stream = new CudaStream(_context);
        var padded = new float[weightBytes / sizeof(float)];
        router.CopyWeight(padded);
        _memory.Upload<float>(padded, stream);
        _memory.Upload(router.LogitBias, stream, weightBytes);
        _memory.Upload(router.CorrectionBias, stream, weightBytes + biasBytes);
        stream.Synchronize();
    }

    /// <summary>Frees the GPU's copy of the weight; calls under way must have ended.</summary>
    public void Dispose() => _memory.Dispose();
}
