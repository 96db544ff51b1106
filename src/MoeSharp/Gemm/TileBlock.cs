namespace MoeSharp;

/// <summary>
/// One step of a grouped GEMM: some rows times one 128-K block of one 32-column tile. Sums[r, n] goes from its value over the blocks before to its
/// value over this block too; every element's sum is one chain over ascending k, so that its bits do not depend on what else is computed.
/// </summary>
internal unsafe struct TileBlock
{
    /// <summary>Columns of a tile: output features.</summary>
    public const int Columns = 32;
    /// <summary>K of a block; also the row stride of <see cref="Rows"/>.</summary>
    public const int MaxDepth = 128;
    /// <summary>Bytes of a block's scales: 32 FP32, or 4 x 32 E8M0.</summary>
    public const int ScaleBytes = 128;

    /// <summary>[depth, 32] packed values.</summary>
    public byte* Weights;
    /// <summary>FP32 [32], E8M0 [4, 32], or nothing.</summary>
    public byte* Scales;
    /// <summary>[rows, 128] FP32 operands.</summary>
    public float* Rows;
    /// <summary>[rows] activation scales of this block; null means 1.</summary>
    public float* RowScales;
    /// <summary>[rows, stride].</summary>
    public float* Sums;
    /// <summary>Distance of two rows of <see cref="Sums"/>.</summary>
    public int SumStride;
    /// <summary>Bytes from this block to the one that will be needed when this one is done: kernels fetch it
    /// meanwhile, since hardware stops at pages.</summary>
    public nint Ahead;
    /// <summary>What the codec looks codes up in; set by <see cref="TileKernels"/>.</summary>
    public byte* Tables;
    /// <summary>K of this block: 128, or less in a ragged last one. Kernels take two steps at a time: after
    /// an odd depth a row must have a zero.</summary>
    public int Depth;
}
