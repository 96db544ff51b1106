namespace MoeSharp;

/// <summary>Steps 4 and 6 for one expert: output[r, n] = sum over k of x[r, k] * w[n, k], rounded to BF16 once.</summary>
internal static class GroupedGemm
{
    /// <summary>Runs the rows of one expert through one matrix.</summary>
    /// <param name="weights">[N, width].</param>
    /// <param name="bias">[N], added in FP32 before rounding; empty without.</param>
    /// <param name="x">[rows, width].</param>
    /// <param name="weightRow">Scratch for one decoded row of weights.</param>
    /// <param name="output">[rows, N].</param>
    public static void Run(BlockScaledMatrix weights, ReadOnlySpan<float> bias, Operand x, Span<float> weightRow, Span<BFloat16> output)
    {
        if (x.Count == 0) return;
        Span<float> w = weightRow[..weights.Columns];
        bool promotes = weights.Format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo;
        for (int n = 0; n < weights.Rows; n++)
        {
            if (promotes) weights.DecodeRow(n, w);
            else weights.DequantizeRow(n, w); // MXFP8: code times power of two, exact
            for (int r = 0; r < x.Count; r++)
            {
                float sum = promotes ? DotPromoted(weights, n, w, x, r) : Dot(x.Row(r), w);
                if (!bias.IsEmpty) sum += bias[n];
                output[r * weights.Rows + n] = BFloat16.FromSingle(sum);
            }
        }
    }

    /// <summary>Per 128 values an FP32 sum, then one FMA with the product of both scales (the weight's alone for BF16 activations).</summary>
    private static float DotPromoted(BlockScaledMatrix weights, int n, ReadOnlySpan<float> w, Operand x, int r)
    {
        ReadOnlySpan<float> row = x.Row(r), scales = x.Scales(r);
        float final = 0;
        for (int k = 0, block = 0; k < w.Length; k += 128, block++)
        {
            int length = Math.Min(128, w.Length - k);
            float scale = weights.ScaleAt(weights.ScaleRowOf(n), block);
            if (scales.Length > 0) scale = scales[block] * scale;
            final = MathF.FusedMultiplyAdd(scale, Dot(row.Slice(k, length), w.Slice(k, length)), final);
        }
        return final;
    }

    /// <summary>Ascending, in FP32; every product of two operands is exact, so there is one rounding per term.</summary>
    private static float Dot(ReadOnlySpan<float> x, ReadOnlySpan<float> w)
    {
        float sum = 0;
        for (int k = 0; k < x.Length; k++) sum += x[k] * w[k];
        return sum;
    }
}
