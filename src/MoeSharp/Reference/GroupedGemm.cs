namespace MoeSharp;

/// <summary>
/// What GateUp and Down share: output[r, n] = Σ x[r, k] w[n, k], k ascending, products exact, every addition rounded to FP32, the result to BF16.
/// Sums of 128-blocks are scaled and added to a second chain; MXFP8 and BF16 have one chain over all k.
/// </summary>
internal static class GroupedGemm
{
    private const int RowTile = 32, ColumnTile = 4;

    /// <summary>FP32 values of scratch for rows and weights of this width.</summary>
    public static long Scratch(int width) => (long)(RowTile + ColumnTile) * width;

    /// <summary>Runs the rows of one expert through one matrix.</summary>
    /// <param name="weights">[N, width].</param>
    /// <param name="bias">[N], added in FP32 before rounding; empty without.</param>
    /// <param name="x">[rows, width].</param>
    /// <param name="scratch">For widened rows and weights.</param>
    /// <param name="output">[rows, N].</param>
    public static void Run(BlockScaledMatrix weights, ReadOnlySpan<float> bias, Rows x, Span<float> scratch, Span<BFloat16> output)
    {
        int width = x.Width, tileValues = RowTile * width;
        for (int first = 0; first < x.Count; first += RowTile)
        {
            int count = Math.Min(RowTile, x.Count - first);
            for (int r = 0; r < count; r++) x.Widen(first + r, scratch.Slice(r * width, width));
            for (int n = 0; n < weights.Rows; n += ColumnTile)
            {
                var tile = new WeightTile(weights, n, scratch.Slice(tileValues, ColumnTile * width));
                int columns = Math.Min(ColumnTile, weights.Rows - n);
                for (int r = 0; r < count; r++)
                {
                    ReadOnlySpan<float> scales = x.Scales.IsEmpty ? default : x.Scales.Slice((first + r) * x.Groups, x.Groups);
                    Four sums = tile.Dot(scratch.Slice(r * width, width), scales);
                    Span<BFloat16> to = output.Slice((first + r) * weights.Rows + n, columns);
                    for (int c = 0; c < columns; c++) to[c] = BFloat16.FromSingle(bias.IsEmpty ? sums[c] : sums[c] + bias[n + c]);
                }
            }
        }
    }

    /// <summary>Four outputs at a time, because one chain of additions alone would leave the processor waiting.</summary>
    private ref struct Four
    {
        public float A, B, C, D;

        public readonly float this[int index] => index switch { 0 => A, 1 => B, 2 => C, _ => D };
    }

    /// <summary>Four rows of a matrix, widened; past its end the last row is repeated.</summary>
    private readonly ref struct WeightTile
    {
        private readonly BlockScaledMatrix _matrix;
        private readonly int _row;
        private readonly bool _promotes;
        private readonly ReadOnlySpan<float> _a, _b, _c, _d;

        public WeightTile(BlockScaledMatrix matrix, int row, Span<float> scratch)
        {
            _matrix = matrix;
            _row = row;
            _promotes = matrix.Format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo;
            int width = matrix.Columns;
            for (int i = 0; i < ColumnTile; i++)
            {
                int n = Math.Min(row + i, matrix.Rows - 1);
                if (_promotes) matrix.DecodeRow(n, scratch.Slice(i * width, width));
                else matrix.DequantizeRow(n, scratch.Slice(i * width, width)); // MXFP8: code times power of two, exact
            }
            _a = scratch[..width];
            _b = scratch.Slice(width, width);
            _c = scratch.Slice(2 * width, width);
            _d = scratch.Slice(3 * width, width);
        }

        /// <summary>The products with one row.</summary>
        /// <param name="x">[width].</param>
        /// <param name="scales">One per block of x; empty where x has none.</param>
        public Four Dot(ReadOnlySpan<float> x, ReadOnlySpan<float> scales)
        {
            if (!_promotes) return Dot(x, 0, x.Length);
            Four final = default;
            for (int k = 0, block = 0; k < x.Length; k += 128, block++)
            {
                Four sums = Dot(x, k, Math.Min(128, x.Length - k));
                final.A = MathF.FusedMultiplyAdd(Scale(0, block, scales), sums.A, final.A);
                final.B = MathF.FusedMultiplyAdd(Scale(1, block, scales), sums.B, final.B);
                final.C = MathF.FusedMultiplyAdd(Scale(2, block, scales), sums.C, final.C);
                final.D = MathF.FusedMultiplyAdd(Scale(3, block, scales), sums.D, final.D);
            }
            return final;
        }

        /// <summary>The block's scale for one of the four; times the scale of x, rounded to FP32, where x has one.</summary>
        private float Scale(int column, int block, ReadOnlySpan<float> scales)
        {
            float scale = _matrix.ScaleAt(_matrix.ScaleRowOf(Math.Min(_row + column, _matrix.Rows - 1)), block);
            return scales.IsEmpty ? scale : scales[block] * scale;
        }

        private Four Dot(ReadOnlySpan<float> row, int first, int count)
        {
            ReadOnlySpan<float> x = row.Slice(first, count), a = _a.Slice(first, count), b = _b.Slice(first, count);
            ReadOnlySpan<float> c = _c.Slice(first, count), d = _d.Slice(first, count);
            float sumA = 0, sumB = 0, sumC = 0, sumD = 0;
            for (int k = 0; k < x.Length; k++)
            {
                sumA = MathF.FusedMultiplyAdd(x[k], a[k], sumA);
                sumB = MathF.FusedMultiplyAdd(x[k], b[k], sumB);
                sumC = MathF.FusedMultiplyAdd(x[k], c[k], sumC);
                sumD = MathF.FusedMultiplyAdd(x[k], d[k], sumD);
            }
            return new() { A = sumA, B = sumB, C = sumC, D = sumD };
        }
    }
}
