namespace MoeSharp.Tests;

/// <summary>
/// The layer once more, in float64 and from the formulas alone: every sum and activation in float64, rounded only where the contract rounds, with number
/// formats built from their definitions. It shares no arithmetic with the library; it only reads stored codes and scales.
/// </summary>
internal static class Oracle
{
    /// <summary>The value of each E4M3 code.</summary>
    private static readonly double[] Codes = [.. Enumerable.Range(0, 256).Select(Decode)];
    private static readonly double[] Magnitudes = [.. Codes.Take(127)];

    /// <summary>Output [T, H], before its last rounding.</summary>
    /// <param name="localIds">[T, K]; -1 means no expert.</param>
    public static float[] Layer(
        ExpertsShape shape, ExpertWeights weights, ReadOnlySpan<BFloat16> hidden, ReadOnlySpan<int> localIds, ReadOnlySpan<float> topkWeights)
    {
        int h = shape.Hidden, k = shape.TopK;
        var output = new double[localIds.Length / k * h];
        for (int e = 0; e < weights.Count; e++)
        {
            if (!localIds.Contains(e)) continue;
            var expert = new Expert(shape, weights, e);
            for (int slot = 0; slot < localIds.Length; slot++)
            {
                if (localIds[slot] != e) continue;
                double weight = topkWeights[slot];
                double[] row = Widen(hidden.Slice(slot / k * h, h));
                if (shape.RouterWeightOnInput)
                {
                    for (int c = 0; c < h; c++) row[c] = Bf16(row[c] * Bf16(weight));
                    weight = 1;
                }
                double[] y = expert.Run(row);
                for (int c = 0; c < h; c++) output[slot / k * h + c] += weight * y[c];
            }
        }
        return [.. output.Select(v => (float)v)];
    }

    private sealed class Expert(ExpertsShape shape, ExpertWeights weights, int e)
    {
        private readonly double[][] _gate = Dequantize(weights.Gate[e]), _up = Dequantize(weights.Up[e]), _down = Dequantize(weights.Down[e]);

        /// <summary>One row through it; BF16 values.</summary>
        public double[] Run(double[] row)
        {
            int h = shape.Hidden, i = shape.Intermediate;
            double[] x = Requantize(shape, row, divides: true), product = new double[i], y = new double[h];
            for (int n = 0; n < i; n++)
            {
                double g = Bf16(Dot(x, _gate[n]) + (weights.Biases?.Gate[e * i + n] ?? 0)), u = Bf16(Dot(x, _up[n]) + (weights.Biases?.Up[e * i + n] ?? 0));
                product[n] = Activate(shape.Activation, shape.Rounding, g, u);
            }
            double[] a = Requantize(shape, product, divides: shape.Activation.Kind == ActivationKind.SwigluStep);
            for (int n = 0; n < h; n++) y[n] = Bf16(Dot(a, _down[n]) + (weights.Biases?.Down[e * h + n] ?? 0));
            return y;
        }
    }

    /// <summary>What a row is worth after quantization: code times scale.</summary>
    private static double[] Requantize(ExpertsShape shape, double[] row, bool divides)
    {
        if (shape.Activations == ActivationFormat.Bf16) return row;
        int group = shape.Format == WeightFormat.MxFp8 ? 32 : 128;
        var result = new double[row.Length];
        for (int first = 0; first < row.Length; first += group)
        {
            int end = Math.Min(first + group, row.Length);
            double max = 0;
            for (int c = first; c < end; c++) max = Math.Max(max, Math.Abs(row[c]));
            double scale = Scale(shape.Format, max, divides);
            for (int c = first; c < end; c++) result[c] = scale * Nearest((float)row[c] / (float)scale);
        }
        return result;
    }

    private static double Scale(WeightFormat format, double max, bool divides)
    {
        float floored = (float)Math.Max(max, 1e-10f);
        return format switch
        {
            WeightFormat.MxFp8 => Math.Pow(2, max == 0 ? -127 : Math.Clamp(PowerAbove((float)max / 448f), -127, 127)),
            WeightFormat.Block128PowerOfTwo => Math.Pow(2, PowerAbove(divides ? Math.Max(floored / 448f, 1e-10f) : floored / 448f)),
            _ => divides ? floored / 448f : floored * BitConverter.UInt32BitsToSingle(0x3B124925),
        };
    }

    /// <summary>The least e with 2^e >= value, by trying.</summary>
    private static int PowerAbove(float value)
    {
        int e = -149;
        while (Math.Pow(2, e) < value) e++;
        return e;
    }

    public static double Activate(Activation activation, RoundingMode rounding, double g, double u)
    {
        double limit = activation.Limit ?? double.PositiveInfinity;
        if (activation.Kind == ActivationKind.SwigluStep) return Bf16(Math.Min(g / (1 + Math.Exp(-g)), limit) * Math.Clamp(u, -limit, limit));
        g = Math.Min(g, limit);
        u = Math.Clamp(u, -limit, limit);
        bool staged = rounding == RoundingMode.Bf16Staged;
        if (staged) (g, u) = (Bf16(g), Bf16(u));
        double gate = activation.Kind == ActivationKind.GeluTanh
            ? g / (1 + Math.Exp(-2 * Math.Sqrt(2 / Math.PI) * (g + 0.044715 * g * g * g)))
            : g / (1 + Math.Exp(-activation.Alpha * g));
        double up = u + activation.Beta;
        return staged ? Bf16(Bf16(gate) * Bf16(up)) : Bf16(gate * up);
    }

    /// <summary>One output of a GEMM on quantized 128-block rows, unrounded.</summary>
    public static double Dot(Rows x, int row, BlockScaledMatrix w, int column)
    {
        double sum = 0;
        for (int k = 0; k < x.Width; k++)
        {
            double left = Codes[x.Codes[row * x.Width + k].Bits] * x.Scales[row * x.Groups + k / 128];
            sum += left * Codes[w.Row(column)[k]] * w.ScaleAt(column / 128, k / 128);
        }
        return sum;
    }

    private static double Dot(double[] x, double[] w)
    {
        double sum = 0;
        for (int k = 0; k < x.Length; k++) sum += x[k] * w[k];
        return sum;
    }

    private static double[][] Dequantize(BlockScaledMatrix matrix)
    {
        var rows = new double[matrix.Rows][];
        for (int r = 0; r < matrix.Rows; r++)
        {
            ReadOnlySpan<byte> raw = matrix.Row(r);
            rows[r] = new double[matrix.Columns];
            for (int c = 0; c < matrix.Columns; c++)
            {
                rows[r][c] = matrix.Format == WeightFormat.Bf16
                    ? BitConverter.Int32BitsToSingle((raw[2 * c] | (raw[2 * c + 1] << 8)) << 16)
                    : Codes[raw[c]] * (matrix.Format == WeightFormat.MxFp8 ? matrix.ScaleAt(r, c / 32) : matrix.ScaleAt((r + matrix.RowPhase) / 128, c / 128));
            }
        }
        return rows;
    }

    private static double[] Widen(ReadOnlySpan<BFloat16> values)
    {
        var widened = new double[values.Length];
        for (int i = 0; i < values.Length; i++) widened[i] = BitConverter.Int32BitsToSingle(values[i].Bits << 16);
        return widened;
    }

    /// <summary>Eight significant bits, ties to even.</summary>
    public static double Bf16(double value)
    {
        if (value == 0 || !double.IsFinite(value)) return value;
        double unit = Math.Pow(2, Math.Max(Math.ILogB(value), -126) - 7);
        return Math.Round(value / unit, MidpointRounding.ToEven) * unit;
    }

    /// <summary>The nearest E4M3 value, ties to the even code.</summary>
    private static double Nearest(double value)
    {
        double magnitude = Math.Abs(value);
        int at = Array.BinarySearch(Magnitudes, magnitude);
        if (at < 0)
        {
            int above = Math.Min(~at, Magnitudes.Length - 1), below = above - 1;
            double down = magnitude - Magnitudes[below], up = Magnitudes[above] - magnitude;
            at = down < up || (down == up && below % 2 == 0) ? below : above;
        }
        return Math.CopySign(Magnitudes[at], value);
    }

    private static double Decode(int code)
    {
        int exponent = (code >> 3) & 15, mantissa = code & 7;
        double magnitude = (code & 127) == 127 ? double.NaN : exponent == 0 ? mantissa * Math.Pow(2, -9) : (8 + mantissa) * Math.Pow(2, exponent - 10);
        return code >= 128 ? -magnitude : magnitude;
    }
}
