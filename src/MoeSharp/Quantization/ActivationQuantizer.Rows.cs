namespace MoeSharp;

internal static partial class ActivationQuantizer
{
    /// <summary>Fills ⌈length / group⌉ scales and as many codes as the row has values; bit for bit what the scalar twin gives.</summary>
    /// <param name="group">128 or 32.</param>
    public static void QuantizeRow(ReadOnlySpan<BFloat16> row, QuantizationRule rule, bool powerOfTwo, int group, Span<Float8E4M3> codes, Span<float> scales) =>
        QuantizeRowScalar(row, rule, powerOfTwo, group, codes, scales);

    /// <summary>MXFP8: groups of 32, scales without a floor.</summary>
    public static void QuantizeRowMx(ReadOnlySpan<BFloat16> row, Span<Float8E4M3> codes, Span<ScaleE8M0> scales) => QuantizeRowMxScalar(row, codes, scales);
}
