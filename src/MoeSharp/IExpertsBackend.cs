namespace MoeSharp;

/// <summary>The seam between the contract and what computes it: prepare weights once, then run whole layers on caller buffers.</summary>
public interface IExpertsBackend
{
    /// <summary>Short lower-case name, as the tool's --backend takes it.</summary>
    string Name { get; }

    /// <summary>Whether the hardware is here.</summary>
    Support SupportsDevice();

    /// <summary>Whether weights in this format can be combined with such activations.</summary>
    Support SupportsFormat(WeightFormat format, ActivationFormat activations);

    /// <summary>Whether this activation can be computed.</summary>
    Support SupportsActivation(Activation activation);

    /// <summary>Lays the weights out. The result keeps what it needs of them; the caller keeps <paramref name="weights"/> alive until it is disposed.</summary>
    /// <exception cref="MoeSharpException">A weight is NaN and <paramref name="allowNaNWeights"/> is false; the message names tensor, expert and block.</exception>
    IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights);

    /// <summary>Same, watched and stoppable. Where a backend does not say otherwise it can be stopped before it starts, and is done all at once.</summary>
    /// <exception cref="OperationCanceledException">Nothing is left behind.</exception>
    IPreparedExperts Prepare(
        ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights, IProgress<LoadProgress>? progress, CancellationToken cancellation)
    {
        progress?.Report(new(LoadStage.Prepare, 0, 1));
        cancellation.ThrowIfCancellationRequested();
        IPreparedExperts prepared = Prepare(shape, weights, allowNaNWeights);
        progress?.Report(new(LoadStage.Prepare, 1, 1));
        return prepared;
    }
}

/// <summary>Weights laid out for one backend. Immutable: several threads may run it with a workspace each.</summary>
public interface IPreparedExperts : IDisposable
{
    /// <summary>Which kernels were chosen and why, in one line.</summary>
    string Description { get; }

    /// <summary>Adds the buffers that a call with this many tokens needs.</summary>
    void Plan(WorkspacePlan plan, int tokens);

    /// <summary>Runs all steps after Route. Everything in the call has been checked; the workspace's plan is that of <see cref="Plan"/> for at least as many
    /// tokens, after rows of the caller's own; add <see cref="ExpertsCall.FirstRow"/> to the index of a row.</summary>
    void Run(in ExpertsCall call, Workspace workspace);
}

/// <summary>One checked call. T tokens, H hidden, K top-k.</summary>
public readonly ref struct ExpertsCall
{
    /// <summary>T, at least 1.</summary>
    public required int Tokens { get; init; }
    /// <summary>[T, H]; empty when the caller quantized.</summary>
    public ReadOnlySpan<BFloat16> Hidden { get; init; }
    /// <summary>[T, H]; empty unless the caller quantized.</summary>
    public ReadOnlySpan<Float8E4M3> QuantizedHidden { get; init; }
    /// <summary>[T, ⌈H/128⌉], row-major, when the caller quantized to 128-blocks.</summary>
    public ReadOnlySpan<float> HiddenScales { get; init; }
    /// <summary>[T, ⌈H/32⌉], row-major, when the caller quantized to MXFP8.</summary>
    public ReadOnlySpan<ScaleE8M0> HiddenScalesE8M0 { get; init; }
    /// <summary>[T, K]: local expert or -1.</summary>
    public required ReadOnlySpan<int> LocalIds { get; init; }
    /// <summary>[T, K].</summary>
    public required ReadOnlySpan<float> Weights { get; init; }
    /// <summary>[T, H]; exactly one of the two outputs is given.</summary>
    public Span<BFloat16> Output { get; init; }
    /// <summary>[T, H]: the FP32 sums unrounded.</summary>
    public Span<float> OutputF32 { get; init; }
    /// <summary>At most this many threads may work on the call; 0: all.</summary>
    public int MaxThreads { get; init; }
    /// <summary>Upper bound of memory that the backend takes for the call beside the workspace (a GPU's, for one); 0: none.</summary>
    public long MaxWorkspaceBytes { get; init; }
    /// <summary>Index of the backend's first row in the workspace plan.</summary>
    public int FirstRow { get; init; }
}
