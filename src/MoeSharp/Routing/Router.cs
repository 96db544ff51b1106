using System.Buffers;
using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>
/// Picks K of E experts for every token and weighs them. Immutable and shareable between threads. Everything is FP32; a token's result depends on
/// that token alone, bit for bit. A NaN logit counts as -Inf, so ids are always valid and distinct.
/// </summary>
public sealed class Router
{
    private const int BlockTokens = 256, TaskTokens = 16, TaskExperts = 16;
    private const long WorthATeam = 1 << 20; // multiply-adds: some 20 microseconds of one thread
    private readonly RowDots _logits;
    private readonly float[]? _logitBias;
    private readonly ExpertSelector _selector;

    /// <summary>Checks everything and copies the weight.</summary>
    /// <param name="options">How to pick and weigh.</param>
    /// <param name="weight">[E, H].</param>
    /// <param name="logitBias">[E], added to logits; null without.</param>
    /// <param name="correctionBias">[E], added to scores for selection only; null without.</param>
    /// <exception cref="ArgumentException">A size does not fit, a value is not finite, or the options contradict; the message says which.</exception>
    public Router(
        RouterOptions options, ReadOnlySpan<float> weight, ReadOnlySpan<float> logitBias = default, ReadOnlySpan<float> correctionBias = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        if (weight.IsEmpty || weight.Length % options.Experts != 0)
            throw new ArgumentException($"The router weight [E, H] has {weight.Length} elements, not a multiple of its {options.Experts} experts.");
        Options = options;
        HiddenSize = weight.Length / options.Experts;
        RequireFinite(weight, HiddenSize, "weight");
        _logitBias = Bias(logitBias, "logit bias");
        _logits = new RowDots(weight, options.Experts, HiddenSize);
        _selector = new ExpertSelector(options, Bias(correctionBias, "correction bias"));
    }

    /// <summary>How it picks and weighs.</summary>
    public RouterOptions Options { get; }

    /// <summary>H.</summary>
    public int HiddenSize { get; }

    /// <summary>E.</summary>
    public int Experts => Options.Experts;

    /// <summary>K.</summary>
    public int TopK => Options.TopK;

    /// <summary>[E], or empty.</summary>
    internal ReadOnlySpan<float> LogitBias => _logitBias;

    /// <summary>[E], or empty.</summary>
    internal ReadOnlySpan<float> CorrectionBias => _selector.CorrectionBias;

    /// <summary>H rounded up to whole lanes.</summary>
    internal int PaddedHiddenSize => _logits.Stride;

    /// <summary>[E, <see cref="PaddedHiddenSize"/>], zeros from H on.</summary>
    internal void CopyWeight(Span<float> to) => _logits.CopyTo(to);

    /// <summary>Routes T tokens.</summary>
    /// <param name="hidden">[T, H].</param>
    /// <param name="ids">[T, K]: experts in descending order of their selection score.</param>
    /// <param name="weights">[T, K]: their weights.</param>
    /// <exception cref="ArgumentException">A length is wrong.</exception>
    public void Route(ReadOnlySpan<BFloat16> hidden, Span<int> ids, Span<float> weights)
    {
        if (hidden.Length % HiddenSize != 0)
            throw new ArgumentException($"hidden_states has {hidden.Length} elements, not a multiple of the hidden size {HiddenSize}.");
        int tokens = hidden.Length / HiddenSize, k = TopK;
        if (ids.Length != (long)tokens * k || weights.Length != ids.Length)
            throw new ArgumentException(
                $"{tokens} tokens x top-k {k} need {(long)tokens * k} ids and weights but there is room for {ids.Length} and {weights.Length}.");
        float[] scratch = ArrayPool<float>.Shared.Rent(ScratchLength(tokens));
        Route(hidden, ids, weights, scratch, team: null);
        ArrayPool<float>.Shared.Return(scratch);
    }

    /// <summary>Elements of scratch that so many tokens need.</summary>
    internal int ScratchLength(int tokens) => Math.Min(tokens, BlockTokens) * Experts;

    /// <summary>Same with checked lengths, scratch from outside, and a team to share the work of large calls.</summary>
    internal unsafe void Route(ReadOnlySpan<BFloat16> hidden, Span<int> ids, Span<float> weights, Span<float> scratch, Team? team)
    {
        int tokens = hidden.Length / HiddenSize;
        if (hidden.Length * (long)Experts < WorthATeam) team = null;
        using var self = new GCHandle<Router>(this);
        fixed (BFloat16* h = hidden)
        fixed (int* i = ids)
        fixed (float* w = weights, s = scratch)
        {
            for (int first = 0; first < tokens; first += BlockTokens)
            {
                var job = new BlockJob
                {
                    Router = self,
                    Tokens = Math.Min(BlockTokens, tokens - first),
                    Hidden = h + (nint)first * HiddenSize,
                    Logits = s,
                    Ids = i + (nint)first * TopK,
                    Weights = w + (nint)first * TopK,
                };
                Run(new LogitsJob { Block = job }, Blocks(job.Tokens, TaskTokens) * Blocks(Experts, TaskExperts), team);
                Run(new SelectJob { Block = job }, Blocks(job.Tokens, TaskTokens), team);
            }
        }
    }

    private static void Run<TJob>(TJob job, int tasks, Team? team) where TJob : unmanaged, ITeamJob
    {
        if (team is not null) team.Run(job, tasks);
        else for (int task = 0; task < tasks; task++) job.Execute(task, 0);
    }

    private static int Blocks(int length, int block) => (length + block - 1) / block;

    private float[]? Bias(ReadOnlySpan<float> bias, string what)
    {
        if (bias.IsEmpty) return null;
        if (bias.Length != Experts) throw new ArgumentException($"The router {what} has {bias.Length} elements but there are {Experts} experts.");
        RequireFinite(bias, 1, what);
        return bias.ToArray();
    }

    private static void RequireFinite(ReadOnlySpan<float> values, int width, string what)
    {
        for (int i = 0; i < values.Length; i++)
            if (!float.IsFinite(values[i]))
                throw new ArgumentException(
                    $"The router {what} of expert {i / width} is {values[i]}; it must be finite, so its source is damaged or misread.");
    }

    /// <summary>Up to <see cref="BlockTokens"/> tokens and where their results go.</summary>
    private unsafe struct BlockJob
    {
        public GCHandle<Router> Router;
        public int Tokens;
        public BFloat16* Hidden;
        public float* Logits;
        public int* Ids;
        public float* Weights;
    }

    /// <summary>One task is some tokens by some experts.</summary>
    private unsafe struct LogitsJob : ITeamJob
    {
        public BlockJob Block;

        public readonly void Execute(int task, int thread)
        {
            Router router = Block.Router.Target;
            int columns = Blocks(router.Experts, TaskExperts);
            int token = task / columns * TaskTokens, first = task % columns * TaskExperts;
            int tokens = Math.Min(TaskTokens, Block.Tokens - token), last = Math.Min(first + TaskExperts, router.Experts);
            var hidden = new ReadOnlySpan<BFloat16>(Block.Hidden + (nint)token * router.HiddenSize, tokens * router.HiddenSize);
            var logits = new Span<float>(Block.Logits + (nint)token * router.Experts, tokens * router.Experts);
            router._logits.Compute(hidden, first, last, logits);
            if (router._logitBias is not { } bias) return;
            for (int t = 0; t < tokens; t++)
                for (int e = first; e < last; e++) logits[t * router.Experts + e] += bias[e];
        }
    }

    /// <summary>One task is some tokens.</summary>
    private unsafe struct SelectJob : ITeamJob
    {
        public BlockJob Block;

        public readonly void Execute(int task, int thread)
        {
            Router router = Block.Router.Target;
            int k = router.TopK, experts = router.Experts;
            for (int t = task * TaskTokens; t < Math.Min((task + 1) * TaskTokens, Block.Tokens); t++)
            {
                var logits = new Span<float>(Block.Logits + (nint)t * experts, experts);
                router._selector.Select(logits, new Span<int>(Block.Ids + (nint)t * k, k), new Span<float>(Block.Weights + (nint)t * k, k));
            }
        }
    }
}
