namespace MoeSharp.Cli;

/// <summary>The weights of a layer in another format, made in memory from what they are worth in the one they have.</summary>
internal static class ConvertedLayer
{
    /// <summary>Routed and shared experts; the parts are disposed unless they come back as they are.</summary>
    public static LayerParts To(LayerParts parts, WeightFormat? format, CancellationToken cancel)
    {
        if (format is not { } wanted || parts.Experts.Format == wanted) return parts;
        using (parts)
        {
            return new()
            {
                Layer = parts.Layer,
                Router = parts.Router,
                RouterWeight = parts.RouterWeight,
                RouterLogitBias = parts.RouterLogitBias,
                RouterCorrectionBias = parts.RouterCorrectionBias,
                Experts = Convert(parts.Experts, wanted, cancel),
                ExpertsOptions = parts.ExpertsOptions,
                ExpertMap = parts.ExpertMap,
                SharedExperts = parts.SharedExperts is { } shared ? Convert(shared, wanted, cancel) : null,
                SharedActivation = parts.SharedActivation,
                SharedGate = parts.SharedGate,
            };
        }
    }

    private static ExpertWeights Convert(ExpertWeights weights, WeightFormat format, CancellationToken cancel)
    {
        BlockScaledMatrix[][] from = [weights.Gate, weights.Up, weights.Down], to = [new BlockScaledMatrix[weights.Count], new BlockScaledMatrix[weights.Count], new BlockScaledMatrix[weights.Count]];
        Parallel.For(0, 3 * weights.Count, new ParallelOptions { CancellationToken = cancel }, i => to[i % 3][i / 3] = Convert(from[i % 3][i / 3], format));
        return new(to[0], to[1], to[2], weights.Biases);
    }

    private static BlockScaledMatrix Convert(BlockScaledMatrix matrix, WeightFormat format)
    {
        int columns = matrix.Columns;
        var values = new float[checked(matrix.Rows * columns)];
        for (int r = 0; r < matrix.Rows; r++) matrix.DequantizeRow(r, values.AsSpan(r * columns, columns));
        if (format != WeightFormat.Bf16) return WeightQuantizer.Quantize(format, matrix.Rows, columns, values, matrix.Name);
        var rounded = new BFloat16[values.Length];
        Conversions.ToBFloat16(values, rounded);
        return BlockScaledMatrix.CreateBf16(matrix.Rows, columns, rounded, matrix.Name);
    }
}
