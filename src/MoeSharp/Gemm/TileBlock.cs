namespace MoeSharp;

/// <summary>What the rows that a kernel multiplies are made of.</summary>
internal enum Operand : byte
{
    /// <summary>FP32.</summary>
    F32,
    /// <summary>BF16: E4M3 values are exact in it.</summary>
    Bf16,
}

/// <summary>
/// One step of a grouped GEMM: some rows times one 128-K block of one 32-column tile. Sums[r, n] goes from its value over the blocks before to its
/// value over this block too; every element's sum has one order over ascending k, so that its bits do not depend on what else is computed.
/// </summary>
/// <remarks>Generated code reads this struct: it takes the offsets from here.</remarks>
internal unsafe struct TileBlock
{
    /// <summary>Columns of a tile: output features.</summary>
    public const int Columns = 32;
    /// <summary>K of a block; also the row stride of <see cref="Operands"/>.</summary>
    public const int MaxDepth = 128;
    /// <summary>Bytes of a row of <see cref="Sums"/>. Rows of a tile lie one behind the other: a power of two between them, as in a row-major matrix, would put them into few sets of the first cache.</summary>
    public const int SumRowBytes = Columns * sizeof(float);
    /// <summary>Bytes of a row of operands as it waits in memory: BF16.</summary>
    public const int StoredRowBytes = MaxDepth * sizeof(ushort);
    /// <summary>Steps of a whole block: 4 k each.</summary>
    public const int Steps = MaxDepth / 4;
    /// <summary>Bytes of a block's scales: 32 FP32, or 4 x 32 E8M0.</summary>
    public const int ScaleBytes = 128;

    /// <summary>Bytes of a packed block: scales, then values.</summary>
    public static int BytesOf(WeightFormat format) => ScaleBytesOf(format) + Columns * MaxDepth * format.ValueBytes();

    /// <summary>Bytes of scales at the start of a packed block.</summary>
    public static int ScaleBytesOf(WeightFormat format) => format == WeightFormat.Bf16 ? 0 : ScaleBytes;

    /// <summary>Sets what to ask for: the block of a run that is so many further on.</summary>
    public void AskFor(in BlockRun run, int ahead)
    {
        Ahead = run.At(ahead);
        Further = (nint)(run.At(ahead + 1) - Ahead);
    }

    /// <summary>Packed values.</summary>
    public byte* Weights;
    /// <summary>FP32 [32], E8M0 [4, 32], or nothing.</summary>
    public byte* Scales;
    /// <summary>[rows, 128].</summary>
    public byte* Operands;
    /// <summary>[rows] activation scales of this block; null means 1.</summary>
    public float* RowScales;
    /// <summary>[rows, 32].</summary>
    public float* Sums;
    /// <summary>Memory to ask for meanwhile, since hardware stops at pages: so many bytes per step.</summary>
    public byte* Ahead;
    /// <summary>How far behind <see cref="Ahead"/> that lies which comes after it and is asked for too, into the second cache, by kernels that gain from it.</summary>
    public nint Further;
    /// <summary>How far <see cref="Ahead"/> moves per step.</summary>
    public nint AheadStep;
    /// <summary>What the codec looks codes up in; set by <see cref="TileKernels"/>.</summary>
    public byte* Tables;
    /// <summary>Packed values of the block that comes next, for kernels that decode it meanwhile.</summary>
    public byte* Next;
    /// <summary>This block's values as the call before decoded them; the next block's come in their place.</summary>
    public byte* Decoded;
    /// <summary>K of this block: 128, or less in a ragged last one, after which operands have zeros up to the next multiple of 32.</summary>
    public int Depth;
    /// <summary>Rows; kernels with an entry per number of rows do not look.</summary>
    public int RowCount;
    /// <summary>Rows that the thread's AMX tiles were made for; 0 before the first block.</summary>
    public int TileRows;

    /// <summary>Where generated code finds the fields.</summary>
    internal static class Offsets
    {
        public static readonly int Weights, Scales, Operands, RowScales, Sums, Ahead, Further, AheadStep, Next, Decoded, Depth, RowCount, TileRows;

        static Offsets()
        {
            TileBlock block;
            byte* first = (byte*)&block;
            Weights = (int)((byte*)&block.Weights - first);
            Scales = (int)((byte*)&block.Scales - first);
            Operands = (int)((byte*)&block.Operands - first);
            RowScales = (int)((byte*)&block.RowScales - first);
            Sums = (int)((byte*)&block.Sums - first);
            Ahead = (int)((byte*)&block.Ahead - first);
            Further = (int)((byte*)&block.Further - first);
            AheadStep = (int)((byte*)&block.AheadStep - first);
            Next = (int)((byte*)&block.Next - first);
            Decoded = (int)((byte*)&block.Decoded - first);
            RowCount = (int)((byte*)&block.RowCount - first);
            TileRows = (int)((byte*)&block.TileRows - first);
            Depth = (int)((byte*)&block.Depth - first);
        }
    }
}
