namespace MoeSharp;

/// <summary>Kernels generated for this processor, or managed SIMD, on a team of threads. One instance's team serves all its layers and callers, one job at a time.</summary>
public sealed class CpuBackend : IExpertsBackend, IDisposable
{
    private readonly Lock _start = new();
    private readonly int _threads;
    private readonly IGemmKernel? _kernel;
    private readonly Support _support;
    private Team? _team;
    private bool _disposed;

    /// <summary>Threads start with the first layer.</summary>
    /// <param name="threads">At most this many work on a call, the caller's included; null takes one per processor.</param>
    /// <param name="kernel">Name of the kernel to use, as <c>moesharp info</c> lists them; null takes the first that this machine can run. The environment
    /// variable MOESHARP_CPU_KERNEL does the same where this is null. A kernel that cannot run here is refused when a layer is made.</param>
    public CpuBackend(int? threads = null, string? kernel = null) : this(threads)
    {
        _support = GemmKernels.Choose(kernel, out _kernel);
    }

    internal CpuBackend(int? threads, IGemmKernel kernel) : this(threads)
    {
        _support = Support.Yes;
        _kernel = kernel;
    }

    private CpuBackend(int? threads)
    {
        if (threads is < 1) throw new ArgumentOutOfRangeException(nameof(threads), $"threads is {threads}; at least 1 is needed.");
        _threads = threads ?? Environment.ProcessorCount;
    }

    /// <summary>Threads that work on a call.</summary>
    public int Threads => _threads;

    /// <inheritdoc/>
    public string Name => "cpu";

    /// <inheritdoc/>
    public Support SupportsDevice() => _support;

    /// <inheritdoc/>
    public Support SupportsFormat(WeightFormat format, ActivationFormat activations) => Formats.Pair(format, activations);

    /// <inheritdoc/>
    public Support SupportsActivation(Activation activation) => Support.Yes;

    /// <summary>Copies the weights into the order in which the kernels read them; they are not used afterwards.</summary>
    public IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights)
    {
        ArgumentNullException.ThrowIfNull(shape);
        ArgumentNullException.ThrowIfNull(weights);
        _support.ThrowIfNot();
        bool withNaN = allowNaNWeights && weights.Gate.Concat(weights.Up).Concat(weights.Down).Any(matrix => NaNCodes.Find(matrix) is not null);
        if (!allowNaNWeights) NaNCodes.Check(weights);
        return new CpuExperts(shape, weights, Team, _kernel!, withNaN);
    }

    internal Team Team
    {
        get
        {
            lock (_start)
            {
                ObjectDisposedException.ThrowIf(_disposed, this);
                return _team ??= new Team(_threads);
            }
        }
    }

    /// <summary>Ends the threads; layers prepared by this backend cannot run afterwards.</summary>
    public void Dispose()
    {
        lock (_start)
        {
            _disposed = true;
            _team?.Dispose();
        }
    }
}
