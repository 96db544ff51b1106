using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>
/// Generated code for what happens to rows outside the GEMMs. An entry that is null, or a part of a row that is no whole block, is left to managed code,
/// which gives the same numbers but for the last bits of the exponential function.
/// </summary>
internal unsafe struct RowKernels
{
    /// <summary>Step 2, whole 128-blocks of one row.</summary>
    public delegate* unmanaged<QuantizeBlocks*, void> Quantize;
    /// <summary>Step 5, rows of one 128-block of intermediate values.</summary>
    public delegate* unmanaged<ActivateRows*, void> Activate;
    /// <summary>The end of step 6: rows of sums to BF16.</summary>
    public delegate* unmanaged<RoundRows*, void> Round;
    /// <summary>Step 7, one token's part of a chunk of columns.</summary>
    public delegate* unmanaged<CombineRows*, void> CombineToBf16;
}

/// <summary>Arguments of <see cref="RowKernels.Quantize"/>.</summary>
[StructLayout(LayoutKind.Explicit)]
internal unsafe struct QuantizeBlocks
{
    public const int HiddenAt = 0, OperandsAt = 8, ScalesAt = 16, BlocksAt = 24;

    /// <summary>[blocks, 128].</summary>
    [FieldOffset(HiddenAt)] public BFloat16* Hidden;
    /// <summary>[blocks, 128].</summary>
    [FieldOffset(OperandsAt)] public BFloat16* Operands;
    /// <summary>[blocks].</summary>
    [FieldOffset(ScalesAt)] public float* Scales;
    /// <summary>At least 1.</summary>
    [FieldOffset(BlocksAt)] public nint Blocks;
}

/// <summary>Arguments of <see cref="RowKernels.Activate"/>.</summary>
[StructLayout(LayoutKind.Explicit)]
internal unsafe struct ActivateRows
{
    public const int SumsAt = 0, GateBiasAt = 8, UpBiasAt = 16, OperandsAt = 24, ScalesAt = 32, RowsAt = 40;

    /// <summary>[8 tiles, rows, 16 gate then 16 up].</summary>
    [FieldOffset(SumsAt)] public float* Sums;
    /// <summary>[128]; not read without biases.</summary>
    [FieldOffset(GateBiasAt)] public float* GateBias;
    /// <summary>[128]; not read without biases.</summary>
    [FieldOffset(UpBiasAt)] public float* UpBias;
    /// <summary>[rows, 128].</summary>
    [FieldOffset(OperandsAt)] public BFloat16* Operands;
    /// <summary>[rows].</summary>
    [FieldOffset(ScalesAt)] public float* Scales;
    /// <summary>At least 1.</summary>
    [FieldOffset(RowsAt)] public nint Rows;
}

/// <summary>Arguments of <see cref="RowKernels.Round"/>.</summary>
[StructLayout(LayoutKind.Explicit)]
internal unsafe struct RoundRows
{
    public const int SumsAt = 0, BiasAt = 8, RoundedAt = 16, RowsAt = 24;

    /// <summary>[columns / 32, rows, 32].</summary>
    [FieldOffset(SumsAt)] public float* Sums;
    /// <summary>[columns]; not read without biases.</summary>
    [FieldOffset(BiasAt)] public float* Bias;
    /// <summary>[rows, columns].</summary>
    [FieldOffset(RoundedAt)] public BFloat16* Rounded;
    /// <summary>At least 1.</summary>
    [FieldOffset(RowsAt)] public nint Rows;
}

/// <summary>Arguments of <see cref="RowKernels.CombineToBf16"/>.</summary>
[StructLayout(LayoutKind.Explicit)]
internal unsafe struct CombineRows
{
    public const int RowsAt = 0, RowOfSlotAt = 8, WeightsAt = 16, TargetAt = 24, TopKAt = 32;

    /// <summary>[S, columns].</summary>
    [FieldOffset(RowsAt)] public BFloat16* Rows;
    /// <summary>[K]: the token's; -1 where dropped.</summary>
    [FieldOffset(RowOfSlotAt)] public int* RowOfSlot;
    /// <summary>[K].</summary>
    [FieldOffset(WeightsAt)] public float* Weights;
    /// <summary>[columns] BF16.</summary>
    [FieldOffset(TargetAt)] public void* Target;
    /// <summary>At least 1.</summary>
    [FieldOffset(TopKAt)] public nint TopK;
}
