using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>Step 2 for one row: the operands that kernels multiply. E4M3 values with scales beside them, MXFP8 with its scales multiplied in, or BF16; BF16 holds all of them.</summary>
internal readonly unsafe struct RowQuantizer(ExpertsShape shape)
{
    private readonly bool _mx = shape.Format == WeightFormat.MxFp8, _powerOfTwo = shape.PowerOfTwoScales;

    /// <summary>Values that share a scale; 0 for BF16 activations.</summary>
    public int Group { get; } = shape.Group;

    /// <summary>Operands have scales beside them, one per 128 values.</summary>
    public bool HasScales => Group > 0 && !_mx;

    /// <summary>Quantizes values that are BF16 numbers.</summary>
    /// <param name="values">[length]; become what the operands say.</param>
    /// <param name="operands">[length].</param>
    /// <param name="scales">[⌈length / 128⌉] where there are scales.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Quantize(Span<float> values, QuantizationRule rule, BFloat16* operands, float* scales)
    {
        for (int first = 0, g = 0; Group > 0 && first < values.Length; first += Group, g++)
        {
            Span<float> part = values.Slice(first, Math.Min(Group, values.Length - first));
            if (_mx) ActivationQuantizer.RoundToE4M3Mx(part);
            else scales[g] = ActivationQuantizer.RoundToE4M3(part, rule, _powerOfTwo);
        }
        Store(values, operands);
    }

    /// <summary>Takes over one group that the caller quantized.</summary>
    [SkipLocalsInit]
    public void Widen(ReadOnlySpan<Float8E4M3> codes, ScaleE8M0 scale, BFloat16* operands)
    {
        Span<float> values = stackalloc float[TileBlock.MaxDepth];
        values = values[..codes.Length];
        Conversions.ToSingle(codes, values);
        float factor = scale.ToSingle();
        for (int i = 0; _mx && i < values.Length; i++) values[i] *= factor;
        Store(values, operands);
    }

    /// <summary>Stores values that are BF16 numbers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Store(ReadOnlySpan<float> values, BFloat16* operands)
    {
        ref uint from = ref Unsafe.As<float, uint>(ref MemoryMarshal.GetReference(values));
        var to = (ushort*)operands;
        int i = 0;
        for (; i <= values.Length - Vector<ushort>.Count; i += Vector<ushort>.Count)
        {
            Vector<uint> low = Vector.LoadUnsafe(ref from, (nuint)i), high = Vector.LoadUnsafe(ref from, (nuint)(i + Vector<uint>.Count));
            Vector.Narrow(low >>> 16, high >>> 16).Store(to + i);
        }
        for (; i < values.Length; i++) to[i] = (ushort)(Unsafe.Add(ref from, i) >> 16);
    }
}
