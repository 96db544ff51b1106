namespace MoeSharp;

/// <summary>NVIDIA Hopper GPUs. Nothing is loaded before the first question about the device; without a driver the answer is a sentence.</summary>
public sealed class CudaBackend : IExpertsBackend, IDisposable
{
    private const int Hopper = 90;
    private readonly Lock _start = new();
    private readonly int _ordinal;
    private readonly bool _checksSteps;
    private CudaContext? _context;
    private KernelSet? _kernels;
    private bool _disposed;

    /// <summary>Computes on one GPU.</summary>
    /// <param name="gpu">Counted from 0, as the driver counts.</param>
    /// <param name="checkSteps">Waits after each step of a call, so that the error of a kernel names its step; slow, for finding faults. The environment variable
    /// MOESHARP_CUDA_CHECK=1 does the same.</param>
    public CudaBackend(int gpu = 0, bool checkSteps = false)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(gpu);
        _ordinal = gpu;
        _checksSteps = checkSteps || Environment.GetEnvironmentVariable("MOESHARP_CUDA_CHECK") == "1";
    }

    /// <inheritdoc/>
    public string Name => "cuda";

    /// <inheritdoc/>
    public Support SupportsDevice()
    {
        if (DriverLibrary.Availability is { IsSupported: false } no) return no;
        try
        {
            CudaContext context = Context();
            return context.Capability == Hopper
                ? Support.Yes
                : Support.No($"GPU {_ordinal} ({context.Name}) has compute capability {context.Capability / 10}.{context.Capability % 10}; the kernels need 9.0 (Hopper).");
        }
        catch (CudaException failure)
        {
            return Support.No(failure.Message);
        }
    }

    /// <inheritdoc/>
    public Support SupportsFormat(WeightFormat format, ActivationFormat activations) => Formats.Pair(format, activations);

    /// <inheritdoc/>
    public Support SupportsActivation(Activation activation) => Support.Yes;

    /// <summary>Copies the weights to the GPU; they are not used afterwards.</summary>
    /// <exception cref="CudaException">The driver refused, or the GPU's memory does not suffice.</exception>
    public IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights) => Prepare(shape, weights, allowNaNWeights, null, default);

    /// <summary>Same, watched and stoppable: it stops within milliseconds.</summary>
    /// <exception cref="CudaException">The driver refused, or the GPU's memory does not suffice. Nothing stays allocated.</exception>
    /// <exception cref="OperationCanceledException">Nothing stays allocated.</exception>
    public IPreparedExperts Prepare(
        ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights, IProgress<LoadProgress>? progress, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(shape);
        ArgumentNullException.ThrowIfNull(weights);
        (SupportsDevice() & SupportsFormat(shape.Format, shape.Activations) & SupportsLayer(shape, weights)).ThrowIfNot();
        return new CudaExperts(Kernels(), shape, weights, allowNaNWeights, new(null, progress, cancellation));
    }

    /// <summary>What formats do not tell.</summary>
    internal static Support SupportsLayer(ExpertsShape shape, ExpertWeights weights) => weights.Biases is not null && !WideKernels.Serve(shape.Format, shape.Activations)
        ? Support.No("The CUDA backend adds expert biases where activations are BF16 or weights MXFP8; take BF16 activations or use the CPU.")
        : Support.Yes;

    /// <summary>Memory that <see cref="Prepare(ExpertsShape, ExpertWeights, bool)"/> takes of the GPU. Answered without a GPU.</summary>
    public static CudaWeightMemory WeightMemory(ExpertWeights weights)
    {
        ArgumentNullException.ThrowIfNull(weights);
        var sizes = new WeightSizes(weights);
        return new(sizes.Total, sizes.Padding, new UploadPlan(weights).StagingBytes);
    }

    internal CudaContext Context()
    {
        lock (_start)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return _context ??= new CudaContext(_ordinal);
        }
    }

    internal KernelSet Kernels()
    {
        CudaContext context = Context();
        lock (_start) return _kernels ??= new KernelSet(context) { ChecksSteps = _checksSteps };
    }

    /// <summary>Unloads the kernels; layers must be disposed before.</summary>
    public void Dispose()
    {
        lock (_start)
        {
            _disposed = true;
            _kernels?.Dispose();
            _context?.Dispose();
        }
    }
}
