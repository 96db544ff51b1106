namespace MoeSharp.Cli;

/// <summary>How popular experts are.</summary>
internal enum RoutingKind : byte
{
    /// <summary>Every expert equally.</summary>
    Uniform,
    /// <summary>Zipf's law with exponent 1 over a permutation of the experts.</summary>
    Zipf,
}

/// <summary>
/// Routing as a portable formula, the one the peers were measured with: each (token, expert) pair gets a random key, the top-k keys win,
/// highest first. So a row of one table stands beside the same row of another.
/// </summary>
internal static class SyntheticRouting
{
    /// <summary>The seed of the peers' tables.</summary>
    public static long DefaultSeed(RoutingKind kind, int tokens) => (kind == RoutingKind.Zipf ? 2000 : 1000) + tokens;

    /// <summary>Picks experts and weights; each token's weights sum to 1.</summary>
    /// <param name="kind">Popularity of experts.</param>
    /// <param name="seed">Equal seeds give equal routings.</param>
    /// <param name="experts">E, of the whole model.</param>
    /// <param name="topK">K.</param>
    /// <param name="ids">[T, K].</param>
    /// <param name="weights">[T, K].</param>
    public static void Fill(RoutingKind kind, long seed, int experts, int topK, Span<int> ids, Span<float> weights)
    {
        Span<double> keys = experts <= 1024 ? stackalloc double[experts] : new double[experts];
        for (int t = 0; t < ids.Length / topK; t++)
        {
            for (int e = 0; e < experts; e++) keys[e] = Key(kind, SplitMix64.Uniform(seed, (long)t * experts + e), e, experts);
            PickHighest(keys, ids.Slice(t * topK, topK));
            FillWeights(seed + 1, (long)t * topK, weights.Slice(t * topK, topK));
        }
    }

    private static double Key(RoutingKind kind, double u, int expert, int experts) =>
        kind == RoutingKind.Uniform ? u : Math.Log(Math.Max(u, 1e-300)) * (1 + (97L * expert + 13) % experts);

    private static void PickHighest(Span<double> keys, Span<int> ids)
    {
        for (int k = 0; k < ids.Length; k++)
        {
            int best = 0;
            for (int e = 1; e < keys.Length; e++)
                if (keys[e] > keys[best]) best = e;
            ids[k] = best;
            keys[best] = double.NegativeInfinity;
        }
    }

    private static void FillWeights(long seed, long first, Span<float> weights)
    {
        double sum = 0;
        for (int k = 0; k < weights.Length; k++) sum += 0.1 + SplitMix64.Uniform(seed, first + k);
        for (int k = 0; k < weights.Length; k++) weights[k] = (float)((0.1 + SplitMix64.Uniform(seed, first + k)) / sum);
    }
}
