namespace MoeSharp;

/// <summary>Step 2: BF16 rows to E4M3 and scales. With BF16 activations rows stay as they are.</summary>
internal static class Quantize
{
    /// <summary>Fills <paramref name="hidden"/> [T, H] from what the caller gave.</summary>
    /// <param name="weighted">[H]; scratch for a row multiplied by its router weight.</param>
    public static void Run(ExpertsShape shape, in ExpertsCall call, Rows hidden, Span<BFloat16> weighted)
    {
        if (call.Hidden.IsEmpty)
        {
            call.QuantizedHidden.CopyTo(hidden.Codes);
            call.HiddenScales.CopyTo(hidden.Scales);
            call.HiddenScalesE8M0.CopyTo(hidden.ScalesE8M0);
            return;
        }
        for (int t = 0; t < call.Tokens; t++)
        {
            ReadOnlySpan<BFloat16> row = call.Hidden.Slice(t * shape.Hidden, shape.Hidden);
            if (shape.RouterWeightOnInput)
            {
                Multiply(row, BFloat16.FromSingle(call.Weights[t]), weighted);
                row = weighted;
            }
            Row(shape, row, QuantizationRule.Input, hidden.Slice(t, 1));
        }
    }

    /// <summary>One row, with the arithmetic of layer inputs or that of activation results.</summary>
    public static void Row(ExpertsShape shape, ReadOnlySpan<BFloat16> row, QuantizationRule rule, Rows destination)
    {
        if (shape.Activations == ActivationFormat.Bf16) row.CopyTo(destination.Values);
        else if (shape.Format == WeightFormat.MxFp8) ActivationQuantizer.QuantizeRowMxScalar(row, destination.Codes, destination.ScalesE8M0);
        else ActivationQuantizer.QuantizeRowScalar(row, rule, shape.PowerOfTwoScales, shape.Group, destination.Codes, destination.Scales);
    }

    /// <summary>In BF16, before quantization.</summary>
    private static void Multiply(ReadOnlySpan<BFloat16> row, BFloat16 weight, Span<BFloat16> weighted)
    {
        for (int c = 0; c < row.Length; c++) weighted[c] = BFloat16.FromSingle(row[c].ToSingle() * weight.ToSingle());
    }
}
