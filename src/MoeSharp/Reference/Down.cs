namespace MoeSharp;

/// <summary>Step 6: each expert's activated rows times its down matrix.</summary>
internal static class Down
{
    /// <param name="activated">[rows, I].</param>
    /// <param name="down">[rows, H].</param>
    public static void Run(ExpertWeights weights, Grouping grouping, Rows activated, Span<float> scratch, Span<BFloat16> down)
    {
        int width = weights.HiddenSize;
        for (int e = 0; e < weights.Count; e++)
        {
            int first = grouping.First(e);
            ReadOnlySpan<float> bias = weights.Biases is { } biases ? biases.DownOf(e, width) : default;
            GroupedGemm.Run(weights.Down[e], bias, activated.Slice(first, grouping.Counts[e]), scratch, down[(first * width)..]);
        }
    }
}
