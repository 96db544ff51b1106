namespace MoeSharp.Cli;

/// <summary>
/// Random expert weights for timing: E4M3 codes spread like a normal distribution of sigma 104 (or BF16 values), with scales that give each
/// matrix rows of length about 1, so that activations keep the size of their input. Never zeros: those would draw less power and flatter the clock.
/// </summary>
internal static unsafe class SyntheticWeights
{
    private const float CodeSigma = 104f;
    private const int TableBits = 12, PerHash = 5; // five 12-bit indices from one 64-bit hash; the table stays in the first-level cache

    /// <summary>Bytes of all local experts: values and scales.</summary>
    public static long Bytes(BenchShape shape, WeightFormat format) =>
        checked(shape.LocalExperts * (2 * Bytes(shape.Intermediate, shape.Hidden, format) + Bytes(shape.Hidden, shape.Intermediate, format)));

    /// <summary>Fills the local experts' matrices on all processors.</summary>
    public static ExpertWeights Create(BenchShape shape, WeightFormat format, CancellationToken cancel)
    {
        var matrices = new BlockScaledMatrix[3][];
        for (int m = 0; m < 3; m++) matrices[m] = new BlockScaledMatrix[shape.LocalExperts];
        ushort[] table = Table(format, shape.Hidden);
        Parallel.For(0, shape.LocalExperts, new ParallelOptions { CancellationToken = cancel }, e =>
        {
            for (int m = 0; m < 3; m++)
            {
                (int rows, int columns) = m < 2 ? (shape.Intermediate, shape.Hidden) : (shape.Hidden, shape.Intermediate);
                matrices[m][e] = Create(format, rows, columns, seed: 3 * e + m + 1, table);
            }
        });
        return new(matrices[0], matrices[1], matrices[2]);
    }

    private static long Bytes(int rows, int columns, WeightFormat format) =>
        checked((long)rows * columns * format.ValueBytes()
            + (format.BlockRows() == 0 ? 0 : (long)Formats.Blocks(rows, format.BlockRows()) * Formats.Blocks(columns, format.BlockColumns()) * ScaleTypeOf(format).Bytes()));

    private static ScaleType ScaleTypeOf(WeightFormat format) => format switch
    {
        WeightFormat.Bf16 => ScaleType.None,
        WeightFormat.MxFp8 => ScaleType.E8M0,
        _ => ScaleType.F32,
    };

    private static BlockScaledMatrix Create(WeightFormat format, int rows, int columns, int seed, ushort[] table)
    {
        BlockScaledMatrix matrix = BlockScaledMatrix.Allocate($"random matrix {seed}", format, ScaleTypeOf(format), rows, columns);
        for (int r = 0; r < rows; r++)
        {
            byte* row = matrix.Storage.Values + r * matrix.Storage.RowBytes;
            long first = (long)r * columns;
            if (format == WeightFormat.Bf16) Fill(new Span<ushort>(row, columns), seed, first, table);
            else Fill(new Span<byte>(row, columns), seed, first, table);
        }
        float scale = MeanScale(columns);
        for (int r = 0; r < matrix.ScaleRows; r++)
            for (int c = 0; c < matrix.ScaleColumns; c++)
            {
                float s = scale * (0.5f + (float)SplitMix64.Uniform(-seed, (long)r * matrix.ScaleColumns + c));
                byte* row = matrix.Storage.Scales + r * matrix.Storage.ScaleRowBytes;
                if (format == WeightFormat.MxFp8) row[c] = ScaleE8M0.RoundUp(s).Bits;
                else ((float*)row)[c] = s;
            }
        return matrix;
    }

    /// <summary>Every expert has the same, zeroed matrices: enough where only sizes are read.</summary>
    public static ExpertWeights OnlySizes(BenchShape shape, WeightFormat format)
    {
        BlockScaledMatrix gateUp = BlockScaledMatrix.Allocate("sizes of gate and up", format, ScaleTypeOf(format), shape.Intermediate, shape.Hidden);
        BlockScaledMatrix down = BlockScaledMatrix.Allocate("sizes of down", format, ScaleTypeOf(format), shape.Hidden, shape.Intermediate);
        BlockScaledMatrix[] all = [.. Enumerable.Repeat(gateUp, shape.LocalExperts)];
        return new(all, all, [.. Enumerable.Repeat(down, shape.LocalExperts)]);
    }

    /// <summary>What values of a matrix with so many columns are drawn from, one in each word.</summary>
    public static uint[] Words(WeightFormat format, int columns) => Array.ConvertAll(Table(format, columns), bits => (uint)bits);

    /// <summary>The mean of the scales of a matrix with so many columns.</summary>
    public static float MeanScale(int columns) => 1f / (CodeSigma * MathF.Sqrt(columns));

    private static ushort[] Table(WeightFormat format, int columns)
    {
        var table = new ushort[1 << TableBits];
        float sigma = format == WeightFormat.Bf16 ? 1f / MathF.Sqrt(columns) : CodeSigma;
        for (int i = 0; i < table.Length; i++)
        {
            float value = sigma * (float)SplitMix64.Normal(0, i);
            table[i] = format == WeightFormat.Bf16 ? BFloat16.FromSingle(value).Bits : Float8E4M3.FromSingle(value).Bits;
        }
        return table;
    }

    private static void Fill<T>(Span<T> values, int seed, long first, ushort[] table) where T : unmanaged, System.Numerics.INumberBase<T>
    {
        const int mask = (1 << TableBits) - 1;
        for (int i = 0; i < values.Length; i += PerHash)
        {
            ulong bits = SplitMix64.Bits(seed, first + i);
            for (int j = i; j < Math.Min(i + PerHash, values.Length); j++, bits >>= TableBits)
                values[j] = T.CreateTruncating(table[(int)bits & mask]);
        }
    }
}
