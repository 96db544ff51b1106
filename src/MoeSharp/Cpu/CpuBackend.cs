namespace MoeSharp;

/// <summary>Kernels generated for this processor, or managed SIMD, on a team of threads. One instance's team serves all its layers and callers, one job at a time.</summary>
public sealed class CpuBackend : IExpertsBackend, IDisposable
{
    private readonly Lock _start = new();
    private readonly int _threads;
    private readonly IGemmKernel? _kernel;
    private readonly Support _support;
    private readonly PackedCache? _packedCache;
    private Team? _team;
    private bool _disposed;

    /// <summary>Threads start with the first layer.</summary>
    /// <param name="threads">At most this many work on a call, the caller's included; null takes one per processor.</param>
    /// <param name="kernel">Name of the kernel to use, as <c>moesharp info</c> lists them; null takes the first that this machine can run. The environment
    /// variable MOESHARP_CPU_KERNEL does the same where this is null. A kernel that cannot run here is refused when a layer is made.</param>
    /// <param name="packedCache">Folder for weights as the kernels read them. Layers of a checkpoint are stored there when first loaded; later processes map them
    /// instead of laying weights out again, and share the memory. Files are found by what the checkpoint's files are (name, size, time), checked against their
    /// checksums, and never deleted. null stores nothing.</param>
    public CpuBackend(int? threads = null, string? kernel = null, string? packedCache = null) : this(threads)
    {
        if (packedCache is not null) _packedCache = new PackedCache(packedCache);
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
    public IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights) =>
        Prepare(shape, weights, allowNaNWeights, null, default);

    /// <inheritdoc/>
    public IPreparedExperts Prepare(
        ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights, IProgress<LoadProgress>? progress, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(shape);
        ArgumentNullException.ThrowIfNull(weights);
        _support.ThrowIfNot();
        var context = new LoadContext(null, progress, cancellation);
        int downTiles = CpuExperts.DownTilesPerChunk(shape.Hidden, Team.Threads);
        IGemmKernel kernel = _kernel!.ForActivations(shape.Activations);
        PackedFile? stored = _packedCache?.Open(weights, kernel.Order, downTiles);
        try
        {
            if (!allowNaNWeights && stored is not { HasNaN: false }) NaNCodes.Check(weights, new LoadPiece(context, 0, CpuExperts.Pieces, weights.Count));
            bool withNaN = allowNaNWeights && (stored?.HasNaN ?? NaNCodes.First(weights) is not null);
            var experts = new CpuExperts(shape, weights, Team, kernel, withNaN, stored, context);
            if (stored is null) _packedCache?.Store(weights, kernel.Order, experts.Packed.GateUp, experts.Packed.Down, withNaN);
            MappedPages.Release([.. weights.Gate, .. weights.Up, .. weights.Down]);
            if (stored is not null) progress?.Report(new(LoadStage.Prepare, 1, 1)); // there was nothing to lay out
            return experts;
        }
        catch
        {
            stored?.Dispose();
            throw;
        }
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
