using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>Step 2, Quantize: one task per token. T tokens, H hidden.</summary>
internal unsafe struct QuantizeJob : ITeamJob
{
    private const int Block = TileBlock.MaxDepth;

    public RowQuantizer Quantizer;
    public RowKernels RowKernels;
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
    public BFloat16* Operands;
    /// <summary>[T, ⌈H/128⌉].</summary>
    public float* OperandScales;

    public readonly void Execute(int task, int thread)
    {
        BFloat16* operands = Operands + (nint)task * Width;
        float* scales = OperandScales + (nint)task * Blocks;
        if (Hidden == null) TakeOver(task, operands, scales);
        else Quantize(task, operands, scales);
    }

    [SkipLocalsInit, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private readonly void Quantize(int task, BFloat16* operands, float* scales)
    {
        Span<float> values = stackalloc float[Block];
        float weight = Weights == null ? 1 : BFloat16.FromSingle(Weights[task]).ToSingle();
        int whole = RowKernels.Quantize == null || Weights != null ? 0 : Width / Block;
        if (whole > 0)
        {
            var blocks = new QuantizeBlocks { Hidden = Hidden + (nint)task * Width, Operands = operands, Scales = scales, Blocks = whole };
            RowKernels.Quantize(&blocks);
        }
        for (int first = whole * Block, block = whole; first < Width; first += Block, block++)
        {
            Span<float> part = values[..Math.Min(Block, Width - first)];
            Conversions.ToSingle(new ReadOnlySpan<BFloat16>(Hidden + (nint)task * Width + first, part.Length), part);
            if (Weights != null) MultiplyBf16(part, weight);
            Quantizer.Quantize(part, QuantizationRule.Input, operands + first, scales + block);
        }
    }

    private readonly void TakeOver(int task, BFloat16* operands, float* scales)
    {
        int group = Quantizer.Group, groups = Formats.Blocks(Width, group);
        for (int g = 0; g < groups; g++)
        {
            int first = g * group, length = Math.Min(group, Width - first);
            ScaleE8M0 mx = MxScales == null ? default : MxScales[(nint)task * groups + g];
            if (MxScales == null) scales[g] = Scales[(nint)task * groups + g];
            var codes = new ReadOnlySpan<Float8E4M3>(Codes + (nint)task * Width + first, length);
            Quantizer.Widen(codes, mx, operands + first);
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void MultiplyBf16(Span<float> values, float weight)
    {
        for (int i = 0; i < values.Length; i++) values[i] = BFloat16.FromSingle(values[i] * weight).ToSingle();
    }
}
