namespace MoeSharp.Cli;

/// <summary>What a run works on.</summary>
/// <param name="Source">Where it came from, in words.</param>
/// <param name="Hidden">[T, H].</param>
/// <param name="Ids">[T, K], or null: the router picks.</param>
/// <param name="Weights">[T, K], or null: the router weighs.</param>
internal sealed record RunInput(string Source, BFloat16[] Hidden, int[]? Ids = null, float[]? Weights = null)
{
    /// <summary>Standard normal hidden states.</summary>
    /// <exception cref="ArgumentException">They are more than one array holds.</exception>
    public static RunInput Random(int tokens, int hidden, long seed)
    {
        if ((long)tokens * hidden > Array.MaxLength)
            throw new ArgumentException($"{tokens} tokens of hidden size {hidden} are more than one call takes; lower --tokens.");
        var values = new BFloat16[tokens * hidden];
        SplitMix64.FillNormal(seed, values);
        return new($"random, seed {seed}", values);
    }
}
