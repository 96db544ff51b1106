using System.Buffers;

namespace MoeSharp;

/// <summary>
/// Picks K of E experts for every token and weighs them. Immutable and shareable between threads. Everything is FP32; a token's result depends on
/// that token alone, bit for bit. A NaN logit counts as -Inf, so ids are always valid and distinct.
/// </summary>
public sealed class Router
{
    private const int TokensPerBlock = 16;
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
        float[] scratch = ArrayPool<float>.Shared.Rent(Math.Min(tokens, TokensPerBlock) * Experts);
        for (int first = 0; first < tokens; first += TokensPerBlock)
        {
            int count = Math.Min(TokensPerBlock, tokens - first);
            Span<float> logits = scratch.AsSpan(0, count * Experts);
            Logits(hidden.Slice(first * HiddenSize, count * HiddenSize), logits);
            for (int t = 0; t < count; t++)
                _selector.Select(logits.Slice(t * Experts, Experts), ids.Slice((first + t) * k, k), weights.Slice((first + t) * k, k));
        }
        ArrayPool<float>.Shared.Return(scratch);
    }

    /// <summary>[T, E]: products with the weight's rows plus the logit bias.</summary>
    internal void Logits(ReadOnlySpan<BFloat16> hidden, Span<float> logits)
    {
        _logits.Compute(hidden, 0, Experts, logits);
        if (_logitBias is null) return;
        for (int i = 0; i < logits.Length; i++) logits[i] += _logitBias[i % Experts];
    }

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
}
