namespace MoeSharp;

/// <summary>How far a result lies from what was expected, summed in FP64. A NaN in either makes every figure NaN, which no bound accepts.</summary>
/// <param name="MaxAbsolute">The largest |actual - expected|.</param>
/// <param name="RelativeL2">‖actual - expected‖ / ‖expected‖.</param>
/// <param name="CalcDiff">‖actual - expected‖² / (‖actual‖² + ‖expected‖²), DeepGEMM's measure.</param>
internal readonly record struct Accuracy(double MaxAbsolute, double RelativeL2, double CalcDiff)
{
    /// <summary>Compares element by element; two results of zeros only agree completely.</summary>
    /// <exception cref="ArgumentException">The lengths differ.</exception>
    public static Accuracy Of(ReadOnlySpan<float> actual, ReadOnlySpan<float> expected)
    {
        if (actual.Length != expected.Length) throw new ArgumentException($"{actual.Length} values cannot be compared with {expected.Length}.");
        double max = 0, difference = 0, actualSquares = 0, expectedSquares = 0;
        for (int i = 0; i < actual.Length; i++)
        {
            double a = actual[i], e = expected[i], d = a - e;
            max = Math.Max(max, Math.Abs(d)); // propagates NaN
            difference += d * d;
            actualSquares += a * a;
            expectedSquares += e * e;
        }
        return new(max, Ratio(Math.Sqrt(difference), Math.Sqrt(expectedSquares)), Ratio(difference, actualSquares + expectedSquares));
    }

    /// <summary>The same for BF16 results.</summary>
    public static Accuracy Of(ReadOnlySpan<BFloat16> actual, ReadOnlySpan<BFloat16> expected) => Of(Widen(actual), Widen(expected));

    private static double Ratio(double difference, double norm) => difference == 0 ? 0 : difference / norm;

    private static float[] Widen(ReadOnlySpan<BFloat16> values)
    {
        var widened = new float[values.Length];
        for (int i = 0; i < values.Length; i++) widened[i] = values[i].ToSingle();
        return widened;
    }

    /// <inheritdoc/>
    public override string ToString() => $"max {MaxAbsolute:G3}, relative L2 {RelativeL2:G3}, calc_diff {CalcDiff:G3}";
}
