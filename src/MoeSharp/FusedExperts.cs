using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace MoeSharp;

/// <summary>
/// The routed experts of one MoE layer: hidden states, top-k ids and weights in, weighted sums of expert outputs out. Immutable; several threads may
/// call Forward at the same time, each with its own <see cref="Workspace"/> (or with none, then one is rented).
/// </summary>
public sealed class FusedExperts : IDisposable
{
    private const int IdsRow = 0, CountsRow = 1, OwnRows = 2;
    private readonly IPreparedExperts _prepared;
    private readonly WorkspacePool _pool;
    private readonly CallMeter _meter;
    private readonly ILogger _logger;
    private bool _disposed;

    /// <summary>Checks options against weights and backend, and lays the weights out.</summary>
    /// <param name="options">Top-k, activation and choices.</param>
    /// <param name="weights">Kept alive by the caller until this object is disposed.</param>
    /// <param name="backend">What computes; null picks the fastest one that supports the layer.</param>
    /// <exception cref="ArgumentException">Options and weights contradict.</exception>
    /// <exception cref="UnsupportedException">The backend does not do this; the message is its reason.</exception>
    public FusedExperts(ExpertsOptions options, ExpertWeights weights, IExpertsBackend? backend = null) : this(options, weights, backend, default)
    {
    }

    internal FusedExperts(ExpertsOptions options, ExpertWeights weights, IExpertsBackend? backend, LoadContext context)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(weights);
        Shape = ExpertsShape.From(options, weights);
        _logger = options.Logger ?? NullLogger.Instance;
        Backend = backend ?? ExpertsBackends.Choose(Shape, _logger);
        Supports(Backend, Shape).ThrowIfNot();
        long budget = MaxWorkspaceBytes = options.MaxWorkspaceBytes ?? long.MaxValue;
        _pool = new((tokens, plan) => PlanWorkspace(tokens, plan).Bytes, budget);
        _prepared = Backend.Prepare(Shape, weights, options.AllowNaNWeights, context.Progress, context.Cancellation);
        _meter = new(Shape, Backend, context.Layer);
        if (PlanWorkspace(1).Bytes is var needed && needed > budget)
        {
            _prepared.Dispose();
            throw new ArgumentException($"MaxWorkspaceBytes is {budget:N0} but one token alone needs {needed:N0}; raise it.", nameof(options));
        }
        LogChoices(weights, options.AllowNaNWeights);
    }

    private void LogChoices(ExpertWeights weights, bool allowNaN)
    {
        Log.BackendChosen(_logger, Backend.Name, Shape.Experts, Shape.Hidden, Shape.Intermediate, Shape.TopK, Shape.Format, Shape.Activations,
            Description);
        if (!_logger.IsEnabled(LogLevel.Warning)) return;
        if (Backend is ReferenceBackend) Log.ReferenceIsSlow(_logger);
        if (Backend is CpuBackend && !RuntimeFeature.IsDynamicCodeSupported && RuntimeInformation.ProcessArchitecture == Architecture.X64 && !Vector256.IsHardwareAccelerated)
            Log.CompiledWithoutVectors(_logger, Description);
        if (allowNaN && NaNCodes.First(weights) is var (expert, matrix, row, column))
            Log.NaNWeightAccepted(_logger, matrix.Name, expert, row, column);
    }

    /// <summary>All sizes and choices.</summary>
    public ExpertsShape Shape { get; }

    /// <summary>What computes.</summary>
    public IExpertsBackend Backend { get; }

    /// <summary>Which kernels were chosen and why, in one line.</summary>
    public string Description => _prepared.Description;

    /// <summary>The budget of a call's workspace, wherever it lies.</summary>
    internal long MaxWorkspaceBytes { get; }

    /// <summary>The weights as the backend laid them out.</summary>
    internal IPreparedExperts Prepared => _prepared;

    /// <summary>H.</summary>
    public int HiddenSize => Shape.Hidden;

    /// <summary>Whether a backend can run a layer: yes, or the first reason why not, asked in the order device, format, activation.</summary>
    public static Support Supports(IExpertsBackend backend, ExpertsShape shape) =>
        backend.SupportsDevice() & backend.SupportsFormat(shape.Format, shape.Activations) & backend.SupportsActivation(shape.Activation);

    /// <summary>Whether a layer without gating (act(up) alone) can run: no.</summary>
    public static Support SupportsUngated() =>
        Support.No("Ungated experts (no gate projection) are not supported; every activation here multiplies a gate with an up projection.");

    /// <summary>Whether this rank's part of a parallel layout can run here.</summary>
    /// <param name="parallel">How experts and intermediate are split over ranks.</param>
    public static Support SupportsParallel(ParallelConfiguration parallel) => parallel.Check();

    /// <summary>The buffers that a call with this many tokens needs, with their exact total; null fills a new plan.</summary>
    public WorkspacePlan PlanWorkspace(int tokens, WorkspacePlan? plan = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        plan ??= new();
        plan.Clear();
        plan.Add("local_ids", ElementType.I32, tokens, Shape.TopK, Step.Quantize, Step.Combine); // row IdsRow
        plan.Add("checked_counts", ElementType.I32, Shape.Experts, 1, Step.Quantize, Step.Quantize); // row CountsRow
        _prepared.Plan(plan, tokens);
        return plan;
    }

    /// <summary>Bytes that a call with this many tokens will really use: the plan's total, or less when a byte budget makes it run in
    /// chunks.</summary>
    public long WorkspaceBytes(int tokens) => _pool.Bytes(tokens, new());

    /// <summary>The seed's contract in one line: all experts local, BF16 in and out.</summary>
    /// <param name="hidden">[T, H].</param>
    /// <param name="topkIds">[T, K]; -1 means no expert.</param>
    /// <param name="topkWeights">[T, K].</param>
    /// <param name="output">[T, H]; written completely.</param>
    /// <param name="workspace">Null rents one.</param>
    public void Forward(ReadOnlySpan<BFloat16> hidden, ReadOnlySpan<int> topkIds, ReadOnlySpan<float> topkWeights, Span<BFloat16> output,
        Workspace? workspace = null) =>
        Forward(new ExpertsInput { Hidden = hidden, TopkIds = topkIds, TopkWeights = topkWeights }, output, workspace);

    /// <summary>Runs the experts; <paramref name="output"/> [T, H] is written completely, with zeros where no expert is local.</summary>
    /// <exception cref="ArgumentException">A length is wrong or an id is out of range.</exception>
    /// <exception cref="InvalidOperationException">The workspace is too small for one token, or in use.</exception>
    public void Forward(in ExpertsInput input, Span<BFloat16> output, Workspace? workspace = null) => Forward(input, output, default, workspace);

    /// <summary>Same, with FP32 output: the sums before their last rounding.</summary>
    public void Forward(in ExpertsInput input, Span<float> output, Workspace? workspace = null) => Forward(input, default, output, workspace);

    private void Forward(in ExpertsInput input, Span<BFloat16> output, Span<float> outputF32, Workspace? workspace)
    {
        int tokens = CheckInput(input, output.Length + outputF32.Length);
        if (tokens == 0) return;
        Workspace ws = workspace ?? _pool.Rent(tokens);
        ws.Enter();
        CallMeter.CallTimer timer = _meter.Start(tokens);
        try
        {
            RunChunks(input, tokens, output, outputF32, ws);
            timer.Complete();
        }
        finally
        {
            timer.Dispose();
            ws.Leave();
            if (workspace is null) _pool.Return(ws);
        }
    }

    /// <summary>Same, in a workspace that the caller has entered and of which the first bytes, as many as the plan says, are free.</summary>
    internal void ForwardEntered(in ExpertsInput input, Span<BFloat16> output, Span<float> outputF32, Workspace entered)
    {
        int tokens = CheckInput(input, output.Length + outputF32.Length);
        if (tokens > 0) RunChunks(input, tokens, output, outputF32, entered);
    }

    private void RunChunks(in ExpertsInput input, int tokens, Span<BFloat16> output, Span<float> outputF32, Workspace ws)
    {
        int chunk = _pool.Chunk(tokens, ws.Bytes, ws.Plan);
        if (chunk == 0)
            throw new InvalidOperationException(
                $"The workspace has {ws.Bytes:N0} bytes but one token needs {PlanWorkspace(1, ws.Plan).Bytes:N0}; PlanWorkspace tells how much a " +
                "call takes.");
        if (chunk < tokens) Log.CallRunsInChunks(_logger, tokens, chunk, ws.Bytes);
        CheckIds(input, ws.Span<int>(CountsRow));
        if (Telemetry.ExpertRows.Enabled) RecordRows(input, ws.Span<int>(CountsRow));
        for (int first = 0; first < tokens; first += chunk)
            RunChunk(input, first, Math.Min(chunk, tokens - first), output, outputF32, ws);
    }

    /// <summary>Runs some tokens in a workspace planned for at least as many.</summary>
    private void RunChunk(in ExpertsInput input, int first, int tokens, Span<BFloat16> output, Span<float> outputF32, Workspace ws)
    {
        int h = Shape.Hidden, k = Shape.TopK, groups = Formats.Blocks(h, Shape.Group);
        Span<int> localIds = ws.Span<int>(IdsRow)[..(tokens * k)];
        if (input.TopkIds.IsEmpty)
            Permutation.MapIds(input.TopkIds64.Slice(first * k, tokens * k), input.ExpertMap, Shape.GlobalExperts, k, localIds);
        else Permutation.MapIds(input.TopkIds.Slice(first * k, tokens * k), input.ExpertMap, Shape.GlobalExperts, k, localIds);
        _prepared.Run(new ExpertsCall
        {
            Tokens = tokens,
            Hidden = Part(input.Hidden, first, tokens, h),
            QuantizedHidden = Part(input.QuantizedHidden, first, tokens, h),
            HiddenScales = Part(input.HiddenScales, first, tokens, groups),
            HiddenScalesE8M0 = Part(input.HiddenScalesE8M0, first, tokens, groups),
            LocalIds = localIds,
            Weights = input.TopkWeights.Slice(first * k, tokens * k),
            Output = output.IsEmpty ? default : output.Slice(first * h, tokens * h),
            OutputF32 = outputF32.IsEmpty ? default : outputF32.Slice(first * h, tokens * h),
            MaxThreads = input.MaxThreads,
            MaxWorkspaceBytes = MaxWorkspaceBytes,
            FirstRow = OwnRows,
        }, ws);
    }

    private static ReadOnlySpan<T> Part<T>(ReadOnlySpan<T> all, int first, int tokens, int width) =>
        all.IsEmpty ? default : all.Slice(first * width, tokens * width);

    /// <summary>Checks every length before anything is computed; returns T.</summary>
    private int CheckInput(in ExpertsInput input, int outputLength)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (input.MaxThreads < 0) throw new ArgumentException($"MaxThreads is {input.MaxThreads}; it must be at least 1, or 0 for all threads.");
        int h = Shape.Hidden, k = Shape.TopK;
        bool quantized = input.Hidden.IsEmpty && !input.QuantizedHidden.IsEmpty;
        int hiddenLength = quantized ? input.QuantizedHidden.Length : input.Hidden.Length;
        if (hiddenLength % h != 0) throw new ArgumentException($"hidden_states has {hiddenLength} elements, not a multiple of the hidden size {h}.");
        int tokens = hiddenLength / h;
        if (outputLength != hiddenLength)
            throw new ArgumentException($"output has {outputLength} elements but hidden_states has {hiddenLength}; both are [T, H].");
        if (!input.TopkIds.IsEmpty && !input.TopkIds64.IsEmpty)
            throw new ArgumentException("Give topk_ids as 32-bit or as 64-bit integers, not both.");
        long ids = (long)input.TopkIds.Length + input.TopkIds64.Length;
        if (ids != (long)tokens * k)
            throw new ArgumentException($"topk_ids has {ids} elements but {tokens} tokens x top-k {k} need {(long)tokens * k}.");
        if (input.TopkWeights.Length != ids)
            throw new ArgumentException($"topk_weights has {input.TopkWeights.Length} elements but topk_ids has {ids}; both are [T, K].");
        CheckMap(input.ExpertMap);
        if (!input.ExpertCounts.IsEmpty && input.ExpertCounts.Length != Shape.Experts)
            throw new ArgumentException($"expert_counts has {input.ExpertCounts.Length} elements but there are {Shape.Experts} local experts.");
        if (quantized) CheckQuantized(input, tokens);
        return tokens;
    }

    private void CheckMap(ReadOnlySpan<int> map)
    {
        if (map.IsEmpty)
        {
            if (Shape.GlobalExperts != Shape.Experts)
                throw new ArgumentException($"{Shape.Experts} of {Shape.GlobalExperts} experts are local, so expert_map is needed to tell which.");
            return;
        }
        if (map.Length != Shape.GlobalExperts)
            throw new ArgumentException($"expert_map has {map.Length} elements but the model has {Shape.GlobalExperts} experts.");
        for (int g = 0; g < map.Length; g++)
            if (map[g] < -1 || map[g] >= Shape.Experts)
                throw new ArgumentException($"expert_map[{g}] is {map[g]}; local ids lie in -1 .. {Shape.Experts - 1}.");
    }

    private void CheckQuantized(in ExpertsInput input, int tokens)
    {
        if (Shape.Activations != ActivationFormat.Fp8)
            throw new ArgumentException(
                "The experts were built for BF16 activations but quantized hidden states were given; give BF16 or build with FP8 activations.");
        if (Shape.RouterWeightOnInput)
            throw new ArgumentException(
                "Router weights go onto the input before quantization, so quantized hidden states cannot be used with RouterWeightOnInput.");
        int groups = Formats.Blocks(Shape.Hidden, Shape.Group);
        int given = Shape.Format == WeightFormat.MxFp8 ? input.HiddenScalesE8M0.Length : input.HiddenScales.Length;
        if (given != (long)tokens * groups)
            throw new ArgumentException($"Quantized hidden states of {tokens} tokens need {(long)tokens * groups} " +
                $"{(Shape.Format == WeightFormat.MxFp8 ? "E8M0" : "FP32")} scales ({groups} per token) but {given} were given.");
    }

    /// <summary>All ids of the call, and the counts if they were given, before anything is computed.</summary>
    /// <param name="counts">[E]; scratch.</param>
    private void CheckIds(in ExpertsInput input, Span<int> counts)
    {
        if (input.TopkIds.IsEmpty) Permutation.CheckIds(input.TopkIds64, Shape.GlobalExperts, Shape.TopK);
        else Permutation.CheckIds(input.TopkIds, Shape.GlobalExperts, Shape.TopK);
        if (input.ExpertCounts.IsEmpty) return;
        CountRows(input, counts);
        for (int e = 0; e < counts.Length; e++)
            if (counts[e] != input.ExpertCounts[e])
                throw new ArgumentException($"expert_counts[{e}] is {input.ExpertCounts[e]} but topk_ids send {counts[e]} rows to that expert.");
    }

    private static void CountRows(in ExpertsInput input, Span<int> counts)
    {
        counts.Clear();
        for (int i = 0; i < input.TopkWeights.Length; i++)
        {
            int id = input.TopkIds.IsEmpty ? (int)input.TopkIds64[i] : input.TopkIds[i];
            int local = id < 0 || input.ExpertMap.IsEmpty ? id : input.ExpertMap[id];
            if (local >= 0) counts[local]++;
        }
    }

    /// <summary>What a listener wants to see of the routing. Shared experts have none: one expert that every token passes.</summary>
    private void RecordRows(in ExpertsInput input, Span<int> counts)
    {
        if (Shape.GlobalExperts == 1) return;
        CountRows(input, counts);
        _meter.RecordRows(counts);
    }

    /// <summary>Frees the prepared weights and pooled workspaces.</summary>
    public void Dispose()
    {
        _disposed = true;
        _prepared.Dispose();
        _pool.Dispose();
    }
}
