using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the FP32 microkernel for a number of rows: the same chains of fused multiply-adds as <see cref="TileKernel"/>, so the same bits. Two vectors of
/// sums per row stay in registers over a 128-K block, as many rows as the registers hold; a tile takes as many passes as its columns need.
/// </summary>
internal sealed class FmaEmitter(Assembler a, IVectorAssembler v, WeightFormat format, bool withNaN)
{
    private const int StepDepth = 4, GroupDepth = 32, RowBytes = sizeof(float) * TileBlock.MaxDepth, Line = 64;

    private static readonly AssemblerRegister64 s_block = rdi, s_weights = rax, s_operands = rsi, s_sums = rdx, s_stride = rcx, s_rowScales = r8,
        s_scales = r9, s_ahead = r10, s_steps = r11, s_row = rbx, s_group = rbx;

    private readonly bool _promotes = format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo, _mx = format == WeightFormat.MxFp8;
    private readonly int _depthBytes = TileBlock.Columns * format.ValueBytes();
    private int _rows;

    /// <summary>Rows whose sums fit the registers beside two vectors of weights, two of scales for MXFP8, and an operand.</summary>
    public static int MaxRows(int registers, WeightFormat format) => Math.Min(TileKernels.MostRows, (registers - (format == WeightFormat.MxFp8 ? 5 : 3)) / 2);

    private int W0 => 2 * _rows;
    private int W1 => W0 + 1;
    private int X => W0 + 2;
    private int Scale0 => W0 + 3;
    private int Scale1 => W0 + 4;

    /// <summary>One function: void(TileBlock*), System V.</summary>
    public void EmitEntry(int rows)
    {
        _rows = rows;
        a.push(rbx);
        for (int column = 0; column < TileBlock.Columns; column += 2 * v.Lanes) EmitPass(column);
        a.vzeroupper();
        a.pop(rbx);
        a.ret();
    }

    /// <summary>All k for two vectors of columns.</summary>
    private void EmitPass(int column)
    {
        LoadArguments();
        if (_promotes) for (int i = 0; i < 2 * _rows; i++) v.Clear(i);
        else EachSum(column, (sum, offset) => v.Load(sum, s_row, offset));
        Label group = a.CreateLabel(), step = a.CreateLabel();
        if (_mx)
        {
            a.Label(ref group);
            v.DecodeE8M0(Scale0, s_scales, column, X);
            v.DecodeE8M0(Scale1, s_scales, column + v.Lanes, X);
            a.add(s_scales, TileBlock.Columns);
            a.mov(s_group, GroupDepth / StepDepth);
        }
        a.Label(ref step);
        if (column == 0)
        {
            for (int line = 0; line < StepDepth * _depthBytes; line += Line) a.prefetcht0(__[s_ahead + line]);
            a.add(s_ahead, __[s_block + TileBlock.Offsets.AheadStep]);
        }
        for (int k = 0; k < StepDepth; k++) EmitDepth(k, column);
        a.add(s_weights, StepDepth * _depthBytes);
        a.add(s_operands, StepDepth * sizeof(float));
        a.dec(s_steps);
        if (_mx)
        {
            Label end = a.CreateLabel();
            a.je(end);
            a.dec(s_group);
            a.jne(step);
            a.jmp(group);
            a.Label(ref end);
        }
        else a.jne(step);
        if (_promotes) Promote(column);
        else EachSum(column, (sum, offset) => v.Store(sum, s_row, offset));
    }

    private void LoadArguments()
    {
        a.mov(s_weights, __[s_block + TileBlock.Offsets.Weights]);
        a.mov(s_scales, __[s_block + TileBlock.Offsets.Scales]);
        a.mov(s_operands, __[s_block + TileBlock.Offsets.Operands]);
        a.mov(s_sums, __[s_block + TileBlock.Offsets.Sums]);
        a.mov(s_stride, __[s_block + TileBlock.Offsets.SumStride]);
        a.shl(s_stride, 2);
        a.mov(s_ahead, __[s_block + TileBlock.Offsets.Ahead]);
        a.mov(r11d, __dword_ptr[s_block + TileBlock.Offsets.Depth]);
        a.add(s_steps, StepDepth - 1);
        a.shr(s_steps, 2);
    }

    /// <summary>One k: its weights, then every row's operand times them.</summary>
    private void EmitDepth(int k, int column)
    {
        int offset = k * _depthBytes + column * format.ValueBytes(), next = offset + v.Lanes * format.ValueBytes();
        if (format == WeightFormat.Bf16)
        {
            v.DecodeBf16(W0, s_weights, offset);
            v.DecodeBf16(W1, s_weights, next);
        }
        else
        {
            v.DecodeE4M3(W0, s_weights, offset, withNaN, X);
            v.DecodeE4M3(W1, s_weights, next, withNaN, X);
        }
        if (_mx)
        {
            v.MultiplyByCodeScale(W0); // not the scales, which may leave no room for it
            v.MultiplyByCodeScale(W1);
            v.Multiply(W0, W0, Scale0);
            v.Multiply(W1, W1, Scale1);
        }
        for (int row = 0; row < _rows; row++)
        {
            v.Broadcast(X, s_operands, row * RowBytes + k * sizeof(float));
            v.MultiplyAdd(2 * row, X, W0);
            v.MultiplyAdd(2 * row + 1, X, W1);
        }
    }

    /// <summary>Sums += sum * (row's scale * column's scale).</summary>
    private void Promote(int column)
    {
        Label scaled = a.CreateLabel(), end = a.CreateLabel();
        a.mov(s_rowScales, __[s_block + TileBlock.Offsets.RowScales]);
        v.Load(W0, s_scales, column * sizeof(float));
        v.Load(W1, s_scales, (column + v.Lanes) * sizeof(float));
        v.MultiplyByCodeScale(W0);
        v.MultiplyByCodeScale(W1);
        a.test(s_rowScales, s_rowScales);
        a.jne(scaled);
        EachSum(column, (sum, offset) =>
        {
            v.ScaleAndAdd(sum, sum % 2 == 0 ? W0 : W1, s_row, offset);
            v.Store(sum, s_row, offset);
        });
        a.jmp(end);
        a.Label(ref scaled);
        EachSum(column, (sum, offset) =>
        {
            v.Broadcast(X, s_rowScales, sum / 2 * sizeof(float));
            v.Multiply(X, X, sum % 2 == 0 ? W0 : W1);
            v.ScaleAndAdd(sum, X, s_row, offset);
            v.Store(sum, s_row, offset);
        });
        a.Label(ref end);
    }

    private void EachSum(int column, Action<int, int> emit)
    {
        a.mov(s_row, s_sums);
        for (int row = 0; row < _rows; row++)
        {
            for (int half = 0; half < 2; half++) emit(2 * row + half, (column + half * v.Lanes) * sizeof(float));
            if (row + 1 < _rows) a.add(s_row, s_stride);
        }
    }
}
