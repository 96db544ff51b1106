namespace MoeSharp;

/// <summary>Step 4: each expert's rows times its gate and up matrices.</summary>
internal static class GateUp
{
    /// <param name="permuted">[rows, H].</param>
    /// <param name="gate">[rows, I].</param>
    /// <param name="up">[rows, I].</param>
    public static void Run(ExpertWeights weights, Grouping grouping, Rows permuted, Span<float> scratch, Span<BFloat16> gate, Span<BFloat16> up)
    {
        int width = weights.IntermediateSize;
        for (int e = 0; e < weights.Count; e++)
        {
            int first = grouping.First(e);
            Rows x = permuted.Slice(first, grouping.Counts[e]);
            ReadOnlySpan<float> gateBias = default, upBias = default;
            if (weights.Biases is { } biases)
            {
                gateBias = biases.GateOf(e, width);
                upBias = biases.UpOf(e, width);
            }
            GroupedGemm.Run(weights.Gate[e], gateBias, x, scratch, gate[(first * width)..]);
            GroupedGemm.Run(weights.Up[e], upBias, x, scratch, up[(first * width)..]);
        }
    }
}
