using MoeSharp.Cli;

namespace MoeSharp.Benchmarks;

/// <summary>The inputs of a call: random hidden states, and a routing that changes with the seed. T tokens, K top-k, H hidden.</summary>
internal sealed class RoutedCall
{
    private readonly ExpertsShape _shape;

    public RoutedCall(ExpertsShape shape, int tokens)
    {
        _shape = shape;
        Hidden = new BFloat16[tokens * shape.Hidden];
        Ids = new int[tokens * shape.TopK];
        Weights = new float[Ids.Length];
        SplitMix64.FillNormal(SyntheticRouting.DefaultSeed(RoutingKind.Uniform, tokens), Hidden);
    }

    /// <summary>[T, H].</summary>
    public BFloat16[] Hidden { get; }

    /// <summary>[T, K].</summary>
    public int[] Ids { get; }

    /// <summary>[T, K].</summary>
    public float[] Weights { get; }

    public ExpertsInput Input => new() { Hidden = Hidden, TopkIds = Ids, TopkWeights = Weights };

    /// <summary>Every expert is as likely as any other.</summary>
    public void Route(long seed) => SyntheticRouting.Fill(RoutingKind.Uniform, seed, _shape.Experts, _shape.TopK, Ids, Weights);

    /// <summary>Experts that the current routing touches.</summary>
    public int TouchedExperts() => Ids.Distinct().Count();
}
