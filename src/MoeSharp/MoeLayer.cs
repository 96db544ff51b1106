using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace MoeSharp;

/// <summary>
/// One mixture-of-experts layer of a model: router, routed experts and shared experts. Immutable; several threads may call Forward at the same time,
/// each with its own <see cref="Workspace"/> (or with none, then one is rented).
/// </summary>
public sealed partial class MoeLayer : IDisposable
{
    private readonly WorkspacePool _pool;
    private readonly ExpertWeights _weights;
    private readonly ExpertWeights? _sharedWeights;
    private readonly RowDots? _sharedGate;
    private readonly int[]? _expertMap;
    private readonly Team? _team;
    private readonly CallMeter _meter;
    private readonly ILogger _logger;

    /// <summary>Builds the layer and takes over <paramref name="parts"/>: they are disposed with it (unless this throws).</summary>
    /// <param name="parts">What <see cref="Checkpoint.ReadLayer"/> returns.</param>
    /// <param name="options">Null means all defaults.</param>
    /// <exception cref="ArgumentException">Parts or options contradict.</exception>
    /// <exception cref="CheckpointException">The router cannot be: a bias that is not finite, a top-k above the number of experts.</exception>
    /// <exception cref="UnsupportedException">No backend, or not the chosen one, does this.</exception>
    public MoeLayer(LayerParts parts, MoeLayerOptions? options = null) : this(parts, options ?? new(), default(LoadContext))
    {
    }

    /// <summary>Same, watched and stoppable.</summary>
    internal MoeLayer(LayerParts parts, MoeLayerOptions options, LoadContext context)
    {
        ArgumentNullException.ThrowIfNull(parts);
        Layer = parts.Layer;
        context = context with { Layer = Layer };
        _logger = options.Logger ?? NullLogger.Instance;
        Router = BuildRouter(parts);
        long budget = options.MaxWorkspaceBytes ?? long.MaxValue;
        _pool = new(PlanBytes, budget);
        _weights = parts.Experts;
        _sharedWeights = parts.SharedExperts;
        _expertMap = parts.ExpertMap;
        if (parts.SharedGate is { } gate) _sharedGate = new RowDots(gate, 1, gate.Length);
        ExpertsOptions choices = RoutedOptions(parts, options);
        CheckSizes(parts);
        Experts = new FusedExperts(choices, _weights, options.Backend, context);
        _meter = new(Experts.Shape, Experts.Backend, Layer);
        _team = (Experts.Backend as CpuBackend)?.Team;
        try
        {
            if (_sharedWeights is not null) SharedExperts = new FusedExperts(SharedOptions(parts, choices), _sharedWeights, options.Backend, context with { Progress = null });
            long needed = PlanBytes(1, new());
            if (needed > budget) throw new ArgumentException($"MaxWorkspaceBytes is {budget:N0} but one token alone needs {needed:N0}; raise it.");
        }
        catch
        {
            Experts.Dispose();
            SharedExperts?.Dispose();
            throw;
        }
    }

    /// <summary>Reads a layer of a checkpoint and builds it.</summary>
    /// <param name="model">Must stay open only during this call: the layer keeps what it maps.</param>
    /// <param name="layer">Index of the decoder layer.</param>
    /// <param name="options">Null means all defaults.</param>
    /// <param name="progress">Hears of every expert read and of what is laid out; null: nobody.</param>
    /// <param name="cancellation">Stops the work; then everything that was mapped or allocated for the layer is released.</param>
    /// <exception cref="CheckpointException">A tensor is missing, superfluous, or not of the expected shape or type.</exception>
    /// <exception cref="UnsupportedException">No backend, or not the chosen one, does this.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancellation"/> asked for it.</exception>
    public static MoeLayer Load(
        Checkpoint model, int layer, MoeLayerOptions? options = null, IProgress<LoadProgress>? progress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        options ??= new();
        using Activity? activity = Telemetry.Activities.StartActivity("moesharp.load");
        long started = Stopwatch.GetTimestamp();
        LayerParts parts = model.ReadLayer(layer, options.Selection, progress, cancellation);
        try
        {
            var loaded = new MoeLayer(parts, options, new(layer, progress, cancellation));
            loaded._meter.RecordLoad(started, activity);
            Log.LayerLoaded(loaded._logger, layer, Stopwatch.GetElapsedTime(started).TotalSeconds, parts.Experts.Bytes + (parts.SharedExperts?.Bytes ?? 0));
            return loaded;
        }
        catch
        {
            parts.Dispose();
            throw;
        }
    }

    /// <summary>Index of the decoder layer.</summary>
    public int Layer { get; }

    /// <summary>H.</summary>
    public int HiddenSize => Experts.HiddenSize;

    /// <summary>Picks and weighs experts.</summary>
    public Router Router { get; }

    /// <summary>The routed experts: the way in for callers that bring their own routing and have no use for shared experts.</summary>
    public FusedExperts Experts { get; }

    /// <summary>The shared experts as one expert (E = 1, K = 1) that every token passes; null where the model has none.</summary>
    public FusedExperts? SharedExperts { get; }

    /// <summary>Local id of each expert of the model, where only some are here.</summary>
    internal int[]? ExpertMap => _expertMap;

    /// <summary>What the shared experts' weight is computed with; null: it is 1.</summary>
    internal RowDots? SharedGate => _sharedGate;

    /// <summary>Exact bytes that a call with this many tokens takes of its workspace: never more than the layer's MaxWorkspaceBytes.</summary>
    public long PlanBytes(int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        return _pool.Bytes(tokens, new());
    }

    /// <summary>Bytes of a workspace that serves every one of these layers, one call at a time.</summary>
    public static long PlanBytes(IEnumerable<MoeLayer> layers, int tokens) => layers.Max(layer => layer.PlanBytes(tokens));

    private static Router BuildRouter(LayerParts parts)
    {
        try
        {
            return new Router(parts.Router, parts.RouterWeight, parts.RouterLogitBias, parts.RouterCorrectionBias);
        }
        catch (ArgumentException e)
        {
            throw new CheckpointException($"Layer {parts.Layer}: {e.Message}", e);
        }
    }

    /// <summary>Routed experts, and shared ones where there are any: what a backend must be able to do.</summary>
    internal static IEnumerable<(ExpertsShape Shape, ExpertWeights Weights)> AllExperts(LayerParts parts, MoeLayerOptions options)
    {
        ExpertsOptions routed = RoutedOptions(parts, options);
        yield return (ExpertsShape.From(routed, parts.Experts), parts.Experts);
        if (parts.SharedExperts is { } shared) yield return (ExpertsShape.From(SharedOptions(parts, routed), shared), shared);
    }

    private static ExpertsOptions RoutedOptions(LayerParts parts, MoeLayerOptions options) => parts.ExpertsOptions with
    {
        Activations = options.Activations ?? parts.ExpertsOptions.Activations,
        MaxWorkspaceBytes = options.MaxWorkspaceBytes,
        AllowNaNWeights = options.AllowNaNWeights,
        Logger = options.Logger ?? parts.ExpertsOptions.Logger,
    };

    /// <summary>Shared experts that are not quantized stay in BF16 whatever the routed ones do.</summary>
    private static ExpertsOptions SharedOptions(LayerParts parts, ExpertsOptions routed) => new()
    {
        TopK = 1,
        Activation = parts.SharedActivation,
        Activations = parts.SharedExperts!.Format == WeightFormat.Bf16 ? ActivationFormat.Bf16 : routed.Activations,
        Rounding = routed.Rounding,
        MaxWorkspaceBytes = routed.MaxWorkspaceBytes,
        AllowNaNWeights = routed.AllowNaNWeights,
        Logger = routed.Logger,
    };

    private void CheckSizes(LayerParts parts)
    {
        int hidden = _weights.HiddenSize, experts = parts.ExpertsOptions.GlobalExperts == -1 ? _weights.Count : parts.ExpertsOptions.GlobalExperts;
        string where = $"Layer {Layer}: ";
        if (Router.Experts != experts) throw new ArgumentException($"{where}the router knows {Router.Experts} experts but the layer has {experts}.");
        if (Router.HiddenSize != hidden)
            throw new ArgumentException($"{where}the router has hidden size {Router.HiddenSize} but the experts have {hidden}.");
        if (Router.TopK != parts.ExpertsOptions.TopK)
            throw new ArgumentException($"{where}the router picks {Router.TopK} experts but the options say top-k {parts.ExpertsOptions.TopK}.");
        if (_sharedWeights is { } shared && (shared.HiddenSize != hidden || shared.Count != 1))
            throw new ArgumentException($"{where}shared experts come as one with hidden size {hidden}, not {shared.Count} with {shared.HiddenSize}.");
        if (_sharedGate is { } gate && (_sharedWeights is null || gate.Hidden != hidden))
            throw new ArgumentException($"{where}a gate of {gate.Hidden} elements needs shared experts with as large a hidden size.");
    }

    /// <summary>Frees prepared weights, weights and pooled workspaces.</summary>
    public void Dispose()
    {
        Experts.Dispose();
        SharedExperts?.Dispose();
        _weights.Dispose();
        _sharedWeights?.Dispose();
        _pool.Dispose();
    }
}
