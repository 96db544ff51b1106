namespace MoeSharp;

/// <summary>
/// Rows that enter a GEMM, [count, width]: BF16 values, or E4M3 codes with one scale per group of a row. Which spans are in use follows from the layer's
/// formats; the others are empty.
/// </summary>
/// <param name="width">Values of a row: H or I.</param>
/// <param name="groups">Scales of a row; 0 for BF16.</param>
internal readonly ref struct Rows(int width, int groups)
{
    public int Width => width;
    public int Groups => groups;
    /// <summary>[count, width] with BF16 activations.</summary>
    public Span<BFloat16> Values { get; init; }
    /// <summary>[count, width] with FP8 activations.</summary>
    public Span<Float8E4M3> Codes { get; init; }
    /// <summary>[count, groups] of 128 values.</summary>
    public Span<float> Scales { get; init; }
    /// <summary>[count, groups] of 32 values.</summary>
    public Span<ScaleE8M0> ScalesE8M0 { get; init; }

    public int Count => (Values.Length + Codes.Length) / width;

    /// <summary>The values or codes lie in plan row <paramref name="row"/>, the scales in the one after it.</summary>
    public static Rows In(Workspace workspace, int row, ExpertsShape shape, int width)
    {
        if (shape.Activations == ActivationFormat.Bf16) return new(width, 0) { Values = workspace.Span<BFloat16>(row) };
        bool mx = shape.Format == WeightFormat.MxFp8;
        return new(width, Formats.Blocks(width, shape.Group))
        {
            Codes = workspace.Span<Float8E4M3>(row),
            Scales = mx ? default : workspace.Span<float>(row + 1),
            ScalesE8M0 = mx ? workspace.Span<ScaleE8M0>(row + 1) : default,
        };
    }

    public Rows Slice(int first, int count) => new(width, groups)
    {
        Values = Part(Values, first, count, width),
        Codes = Part(Codes, first, count, width),
        Scales = Part(Scales, first, count, groups),
        ScalesE8M0 = Part(ScalesE8M0, first, count, groups),
    };

    public void CopyTo(Rows destination)
    {
        Values.CopyTo(destination.Values);
        Codes.CopyTo(destination.Codes);
        Scales.CopyTo(destination.Scales);
        ScalesE8M0.CopyTo(destination.ScalesE8M0);
    }

    /// <summary>One row as the operand of a GEMM, exact in FP32. MXFP8 has its scale multiplied in; scales of 128-blocks stay apart.</summary>
    public void Widen(int row, Span<float> operand)
    {
        if (!Values.IsEmpty)
        {
            Conversions.ToSingle(Values.Slice(row * width, width), operand);
            return;
        }
        Conversions.ToSingle(Codes.Slice(row * width, width), operand);
        if (ScalesE8M0.IsEmpty) return;
        int group = WeightFormat.MxFp8.BlockColumns();
        for (int k = 0; k < width; k++) operand[k] *= ScalesE8M0[row * groups + k / group].ToSingle();
    }

    private static Span<T> Part<T>(Span<T> all, int first, int count, int width) => all.IsEmpty ? default : all.Slice(first * width, count * width);
}
