namespace MoeSharp;

/// <summary>Step 5: act(gate) * up, then the second quantization (none for BF16 activations).</summary>
internal static class Activate
{
    /// <summary>All rows but padding.</summary>
    /// <param name="slotOfRow">[R]; -1 for padding.</param>
    /// <param name="gate">[R, I].</param>
    /// <param name="up">[R, I].</param>
    /// <param name="scratch">[I].</param>
    /// <param name="activated">[R, I].</param>
    public static void Run(ExpertsShape shape, ReadOnlySpan<int> slotOfRow, ReadOnlySpan<BFloat16> gate, ReadOnlySpan<BFloat16> up, Span<BFloat16> scratch, Operand activated)
    {
        int i = shape.Intermediate;
        for (int r = 0; r < slotOfRow.Length; r++)
        {
            if (slotOfRow[r] < 0) continue;
            for (int c = 0; c < i; c++) scratch[c] = GatedActivation.Apply(shape.Activation, shape.Rounding, gate[r * i + c], up[r * i + c]);
            Quantize.Row(shape, scratch[..i], RuleAfter(shape.Activation), activated.Row(r), activated.Scales(r));
        }
    }

    /// <summary>SWIGLUSTEP is followed by the input's quantizer, the others by one fused with them: their scales may differ in the last bit.</summary>
    public static QuantizationRule RuleAfter(Activation activation) =>
        activation.Kind == ActivationKind.SwigluStep ? QuantizationRule.Input : QuantizationRule.Activation;
}
