using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>Step 2 for one row: the FP32 operands that kernels multiply. E4M3 values with scales
/// beside them, MXFP8 with its scales multiplied in, or BF16.</summary>
internal readonly struct RowQuantizer(ExpertsShape shape)
{
    private readonly bool _mx = shape.Format == WeightFormat.MxFp8, _powerOfTwo = shape.PowerOfTwoScales;

    /// <summary>Values that share a scale; 0 for BF16 activations.</summary>
    public int Group { get; } = shape.Group;

    /// <summary>Operands have scales beside them, one per 128 values.</summary>
    public bool HasScales => Group > 0 && !_mx;

    /// <summary>Quantizes values that are BF16 numbers.</summary>
    /// <param name="values">[length]; may be the same memory as <paramref name="operands"/>.</param>
    /// <param name="scales">[⌈length / 128⌉] where there are scales.</param>
    [SkipLocalsInit]
    public void Quantize(ReadOnlySpan<float> values, QuantizationRule rule, Span<float> operands, Span<float> scales)
    {
        if (Group == 0)
        {
            values.CopyTo(operands);
            return;
        }
        Span<Float8E4M3> codes = stackalloc Float8E4M3[128];
        Span<ScaleE8M0> mx = stackalloc ScaleE8M0[1];
        for (int first = 0, g = 0; first < values.Length; first += Group, g++)
        {
            ReadOnlySpan<float> part = values.Slice(first, Math.Min(Group, values.Length - first));
            if (_mx) ActivationQuantizer.QuantizeRowMx(part, codes, mx);
            else ActivationQuantizer.QuantizeRow(part, rule, _powerOfTwo, Group, codes, scales[g..]);
            Widen(codes[..part.Length], mx[0], operands[first..]);
        }
    }

    /// <summary>Takes over one group that the caller quantized.</summary>
    public void Widen(ReadOnlySpan<Float8E4M3> codes, ScaleE8M0 scale, Span<float> operands)
    {
        Conversions.ToSingle(codes, operands);
        if (!_mx) return;
        float factor = scale.ToSingle();
        for (int i = 0; i < codes.Length; i++) operands[i] *= factor;
    }
}
