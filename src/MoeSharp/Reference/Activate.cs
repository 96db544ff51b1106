namespace MoeSharp;

/// <summary>Step 5: act(gate) * up, then the second quantization (none with BF16 activations).</summary>
internal static class Activate
{
    /// <summary>All rows but padding.</summary>
    /// <param name="slotOfRow">[rows]; -1 for padding.</param>
    /// <param name="gate">[rows, I].</param>
    /// <param name="up">[rows, I].</param>
    /// <param name="product">[I]; scratch.</param>
    /// <param name="activated">[rows, I].</param>
    public static void Run(
        ExpertsShape shape, ReadOnlySpan<int> slotOfRow, ReadOnlySpan<BFloat16> gate, ReadOnlySpan<BFloat16> up, Span<BFloat16> product, Rows activated)
    {
        int width = shape.Intermediate;
        for (int r = 0; r < slotOfRow.Length; r++)
        {
            if (slotOfRow[r] < 0) continue;
            for (int c = 0; c < width; c++)
                product[c] = GatedActivation.Apply(shape.Activation, shape.Rounding, gate[r * width + c], up[r * width + c]);
            Quantize.Row(shape, product[..width], RuleAfter(shape.Activation), activated.Slice(r, 1));
        }
    }

    /// <summary>SWIGLUSTEP is followed by the input's quantizer, the others by one fused with them: their scales may differ in the last
    /// bit.</summary>
    public static QuantizationRule RuleAfter(Activation activation) =>
        activation.Kind == ActivationKind.SwigluStep ? QuantizationRule.Input : QuantizationRule.Activation;
}
