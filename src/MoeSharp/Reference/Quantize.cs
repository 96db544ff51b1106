namespace MoeSharp;

/// <summary>Step 2: BF16 rows to E4M3 and scales, or kept in BF16.</summary>
internal static class Quantize
{
    /// <summary>Fills <paramref name="hidden"/> [T, H] from what the caller gave.</summary>
    public static void Run(ExpertsShape shape, in ExpertsCall call, Operand hidden, Span<BFloat16> scratch)
    {
        int h = shape.Hidden;
        for (int t = 0; t < call.Tokens; t++)
        {
            if (call.Hidden.IsEmpty)
            {
                Widen(shape, call.QuantizedHidden.Slice(t * h, h), call, t, hidden);
                continue;
            }
            ReadOnlySpan<BFloat16> row = call.Hidden.Slice(t * h, h);
            if (shape.RouterWeightOnInput)
            {
                float weight = BFloat16.FromSingle(call.Weights[t]).ToSingle();
                for (int c = 0; c < h; c++) scratch[c] = BFloat16.FromSingle(row[c].ToSingle() * weight);
                row = scratch[..h];
            }
            Row(shape, row, QuantizationRule.Input, hidden.Row(t), hidden.Scales(t));
        }
    }

    /// <summary>One row, with the arithmetic of layer inputs or that of activation results.</summary>
    public static void Row(ExpertsShape shape, ReadOnlySpan<BFloat16> row, QuantizationRule rule, Span<float> values, Span<float> scales)
    {
        if (shape.Activations == ActivationFormat.Bf16)
        {
            for (int c = 0; c < row.Length; c++) values[c] = row[c].ToSingle();
            return;
        }
        Span<Float8E4M3> codes = stackalloc Float8E4M3[128];
        Span<ScaleE8M0> mx = stackalloc ScaleE8M0[1];
        int group = shape.Group;
        for (int first = 0, g = 0; first < row.Length; first += group, g++)
        {
            ReadOnlySpan<BFloat16> part = row.Slice(first, Math.Min(group, row.Length - first));
            if (shape.Format == WeightFormat.MxFp8)
            {
                ActivationQuantizer.QuantizeRowMxScalar(part, codes, mx);
                scales[g] = mx[0].ToSingle();
            }
            else
            {
                ActivationQuantizer.QuantizeRowScalar(part, rule, shape.PowerOfTwoScales, group, codes, scales[g..]);
            }
            Widen(shape, codes[..part.Length], scales[g], values[first..]);
        }
    }

    private static void Widen(ExpertsShape shape, ReadOnlySpan<Float8E4M3> codes, in ExpertsCall call, int token, Operand hidden)
    {
        for (int g = 0; g < hidden.Groups; g++)
        {
            int first = g * shape.Group, length = Math.Min(shape.Group, codes.Length - first), at = token * hidden.Groups + g;
            hidden.Scales(token)[g] = shape.Format == WeightFormat.MxFp8 ? call.HiddenScalesE8M0[at].ToSingle() : call.HiddenScales[at];
            Widen(shape, codes.Slice(first, length), hidden.Scales(token)[g], hidden.Row(token)[first..]);
        }
    }

    private static void Widen(ExpertsShape shape, ReadOnlySpan<Float8E4M3> codes, float scale, Span<float> values)
    {
        float folded = shape.Format == WeightFormat.MxFp8 ? scale : 1f;
        for (int c = 0; c < codes.Length; c++) values[c] = codes[c].ToSingle() * folded;
    }
}
