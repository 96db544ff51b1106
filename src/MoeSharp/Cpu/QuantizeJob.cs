using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>Step 2, Quantize: one task per token. T tokens, H hidden.</summary>
internal unsafe struct QuantizeJob : ITeamJob
{
    public RowQuantizer Quantizer;
    public int Width;
    /// <summary>⌈H/128⌉.</summary>
    public int Blocks;
    /// <summary>[T, H]; null when the caller quantized.</summary>
    public BFloat16* Hidden;
    /// <summary>[T, H].</summary>
    public Float8E4M3* Codes;
    /// <summary>[T, ⌈H/128⌉].</summary>
    public float* Scales;
    /// <summary>[T, ⌈H/32⌉].</summary>
    public ScaleE8M0* MxScales;
    /// <summary>[T]: router weights to be multiplied in; null without.</summary>
    public float* Weights;
    /// <summary>[T, H].</summary>
    public float* Operands;
    /// <summary>[T, ⌈H/128⌉].</summary>
    public float* OperandScales;

    public readonly void Execute(int task, int thread)
    {
        var operands = new Span<float>(Operands + (nint)task * Width, Width);
        var scales = new Span<float>(OperandScales + (nint)task * Blocks, Blocks);
        if (Hidden == null)
        {
            TakeOver(task, operands, scales);
            return;
        }
        Conversions.ToSingle(new ReadOnlySpan<BFloat16>(Hidden + (nint)task * Width, Width), operands);
        if (Weights != null) MultiplyBf16(operands, BFloat16.FromSingle(Weights[task]).ToSingle());
        if (Quantizer.Group > 0) Quantizer.Quantize(operands, QuantizationRule.Input, operands, scales);
    }

    private readonly void TakeOver(int task, Span<float> operands, Span<float> scales)
    {
        int group = Quantizer.Group, groups = Formats.Blocks(Width, group);
        for (int g = 0; g < groups; g++)
        {
            int first = g * group, length = Math.Min(group, Width - first);
            ScaleE8M0 mx = MxScales == null ? default : MxScales[(nint)task * groups + g];
            if (MxScales == null) scales[g] = Scales[(nint)task * groups + g];
            Quantizer.Widen(new ReadOnlySpan<Float8E4M3>(Codes + (nint)task * Width + first, length), mx, operands[first..]);
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void MultiplyBf16(Span<float> values, float weight)
    {
        for (int i = 0; i < values.Length; i++) values[i] = BFloat16.FromSingle(values[i] * weight).ToSingle();
    }
}
