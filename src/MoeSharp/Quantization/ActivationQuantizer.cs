namespace MoeSharp;

/// <summary>How a group's largest magnitude becomes its scale; the two differ by one unit in the last place for half of all magnitudes.</summary>
internal enum QuantizationRule : byte
{
    /// <summary>Layer inputs: absmax / 448, an IEEE division.</summary>
    Input,
    /// <summary>Results of the activation: absmax times the FP32 number nearest to 1/448.</summary>
    Activation,
}

/// <summary>
/// Quantizes rows to E4M3, one scale per group of consecutive values; the last group may be ragged. NaN stays NaN and does not count for the scale;
/// a group with an infinity has scale Inf (E8M0 255), infinities become NaN codes and finite values zeros. Zeros keep their signs.
/// </summary>
internal static partial class ActivationQuantizer
{
    /// <summary>A group's largest magnitude counts as at least this; under the input rule so does a power-of-two scale. The fused activation kernels that
    /// serve these models have no such second floor (the recorded layers show it), and what follows the activation rule has none either.</summary>
    internal const float Floor = 1e-10f;

    private const float Reciprocal448 = 1f / 448f;

    /// <summary>Scales of a row: ⌈length / group⌉.</summary>
    public static void QuantizeRowScalar(
        ReadOnlySpan<BFloat16> row, QuantizationRule rule, bool powerOfTwo, int group, Span<Float8E4M3> codes, Span<float> scales)
    {
        Span<float> values = stackalloc float[group];
        for (int first = 0, g = 0; first < row.Length; first += group, g++)
        {
            int length = Math.Min(group, row.Length - first);
            for (int i = 0; i < length; i++) values[i] = row[first + i].ToSingle();
            scales[g] = Scale(AbsMaxScalar(values[..length]), rule, powerOfTwo);
            for (int i = 0; i < length; i++) codes[first + i] = Quotient(values[i], scales[g]);
        }
    }

    /// <summary>MXFP8: groups of 32, scales without a floor.</summary>
    public static void QuantizeRowMxScalar(ReadOnlySpan<BFloat16> row, Span<Float8E4M3> codes, Span<ScaleE8M0> scales)
    {
        Span<float> values = stackalloc float[MxGroup];
        for (int first = 0, g = 0; first < row.Length; first += MxGroup, g++)
        {
            int length = Math.Min(MxGroup, row.Length - first);
            for (int i = 0; i < length; i++) values[i] = row[first + i].ToSingle();
            scales[g] = ScaleE8M0.RoundUp(AbsMaxScalar(values[..length]) / Float8E4M3.MaxValue);
            float divisor = Divisor(scales[g]);
            for (int i = 0; i < length; i++) codes[first + i] = Quotient(values[i], divisor);
        }
    }

    private const int MxGroup = 32;

    /// <summary>The scale of a group with this largest magnitude.</summary>
    internal static float Scale(float absMax, QuantizationRule rule, bool powerOfTwo)
    {
        float floored = absMax > Floor ? absMax : Floor;
        float scale = rule == QuantizationRule.Input ? floored / Float8E4M3.MaxValue : floored * Reciprocal448;
        if (!powerOfTwo) return scale;
        return RoundUpToPowerOfTwo(rule == QuantizationRule.Input && scale < Floor ? Floor : scale);
    }

    /// <summary>By the exponent field; a logarithm may round just above a power of two down. For normal positive numbers and infinity.</summary>
    internal static float RoundUpToPowerOfTwo(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return BitConverter.UInt32BitsToSingle((bits + 0x7FFFFF) & 0x7F800000);
    }

    /// <summary>What values are divided by: the scale, or infinity where E8M0 has only NaN.</summary>
    private static float Divisor(ScaleE8M0 scale) => scale.Bits == 255 ? float.PositiveInfinity : scale.ToSingle();

    private static float AbsMaxScalar(ReadOnlySpan<float> values)
    {
        float max = 0;
        foreach (float value in values)
            if (MathF.Abs(value) > max) max = MathF.Abs(value); // false for NaN
        return max;
    }

    /// <summary>The sign comes from the value, because the sign of Inf / Inf depends on the processor.</summary>
    private static Float8E4M3 Quotient(float value, float scale)
    {
        byte magnitude = (byte)(Float8E4M3.FromSingle(value / scale).Bits & 0x7F);
        return Float8E4M3.FromBits((byte)(magnitude | (float.IsNegative(value) ? 0x80 : 0)));
    }
}
