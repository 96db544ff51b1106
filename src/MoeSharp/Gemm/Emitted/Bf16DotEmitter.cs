using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the microkernel for a number of rows and tiles. Sums stay in registers over a 128-K block (a 32-K group for MXFP8), two vectors of 16 columns
/// per row and tile. A step takes 4 k: each half of a tile is one line of 64 codes, decoded to two vectors of BF16 pairs.
/// </summary>
/// <remarks>
/// Registers: zmm0-23 sums, zmm24-28 what is being decoded and a pair of operands of one row in every lane, zmm29-31 the first half of each table and
/// the sign mask. The dot product takes BF16 subnormals for zero; the tables hold only normal numbers.
/// </remarks>
internal sealed unsafe class Bf16DotEmitter(Assembler a, WeightFormat format)
{
    /// <summary>Rows whose sums fit the registers.</summary>
    public const int MaxRows = 12;
    private const int SumRegisters = 24, Line = 64, StepDepth = 4, GroupDepth = 32, OperandBytes = 2, RowBytes = OperandBytes * TileBlock.MaxDepth;

    private static readonly AssemblerRegister64 s_block = rdi, s_weights = rax, s_operands = rsi, s_sums = rdx, s_stride = rcx, s_rowScales = r8,
        s_groups = r8, s_scales = r9, s_ahead = r10, s_steps = r11, s_row = rdi;

    private static readonly AssemblerRegisterZMM[] s_zmm =
    [
        zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14, zmm15,
        zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23,
    ];

    private static readonly AssemblerRegisterZMM s_lowTable = zmm29, s_highTable = zmm30, s_sign = zmm31;

    private readonly bool _promotes = format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo, _mx = format == WeightFormat.MxFp8;
    private readonly int _stepBytes = StepDepth * TileBlock.Columns * format.ValueBytes();
    private readonly int _blockBytes = TileBlock.BytesOf(format);
    private Label _low0 = a.CreateLabel(), _low1 = a.CreateLabel(), _high0 = a.CreateLabel(), _high1 = a.CreateLabel();
    private Label _sign = a.CreateLabel(), _infinity = a.CreateLabel(), _tiny = a.CreateLabel(), _ones = a.CreateLabel();
    private int _rows, _tiles;

    /// <summary>Whether the sums of so many rows and tiles fit. More than four tiles gain nothing.</summary>
    public static bool Fits(int rows, int tiles) => tiles <= 4 && 2 * rows * tiles <= SumRegisters;

    /// <summary>One function: void(TileBlock*), System V.</summary>
    public void EmitEntry(int rows, int tiles)
    {
        (_rows, _tiles) = (rows, tiles);
        LoadArguments();
        if (_mx) EmitGroups();
        else
        {
            if (_promotes) ClearSums();
            else EachSum(a.vmovups);
            EmitSteps();
            if (_promotes) EachHalf(Promote);
            else EachSum((sum, address) => a.vmovups(address, sum));
        }
        a.vzeroupper();
        a.ret();
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
        if (_mx) a.lea(r8d, __[s_steps + (GroupDepth - 1)]);
        if (_mx) a.shr(r8d, 5);
        a.add(r11d, StepDepth - 1);
        a.shr(r11d, 2);
        if (_promotes)
        {
            a.mov(s_rowScales, __[s_block + TileBlock.Offsets.RowScales]);
            a.lea(s_row, __[_ones]);
            a.test(s_rowScales, s_rowScales);
            a.cmove(s_rowScales, s_row);
        }
        if (format == WeightFormat.Bf16) return;
        a.vmovdqu64(s_lowTable, __[_low0]);
        a.vmovdqu64(s_highTable, __[_high0]);
        a.vpbroadcastd(s_sign, __dword_ptr[_sign]);
        for (int tile = 0; tile < _tiles; tile++) // lines of scales that the prefetch of values does not reach
            for (int line = 0; line < TileBlock.ScaleBytes; line += Line) a.prefetcht0(__[s_scales + s_ahead + (tile * _blockBytes + line)]);
    }

    private void ClearSums()
    {
        for (int i = 0; i < 2 * _rows * _tiles; i++) a.vpxord(s_zmm[i], s_zmm[i], s_zmm[i]);
    }

    /// <summary>Each 32-K group is summed by itself, then added times the power of two of each column.</summary>
    private void EmitGroups()
    {
        Label group = a.CreateLabel();
        a.Label(ref group);
        ClearSums();
        a.mov(r11d, GroupDepth / StepDepth);
        EmitSteps();
        EachHalf(PromoteGroup);
        a.add(s_scales, TileBlock.Columns);
        a.dec(r8d);
        a.jne(group);
    }

    private void EmitSteps()
    {
        Label step = a.CreateLabel();
        a.Label(ref step);
        for (int tile = 0; tile < _tiles; tile++) EmitStep(tile);
        a.add(s_weights, _stepBytes);
        a.add(s_operands, StepDepth * OperandBytes);
        a.dec(r11d);
        a.jne(step);
    }

    /// <summary>4 k of one tile.</summary>
    private void EmitStep(int tile)
    {
        AssemblerMemoryOperand lines = s_weights + tile * _blockBytes;
        AssemblerMemoryOperand ahead = s_weights + s_ahead + tile * _blockBytes;
        for (int line = 0; line < _stepBytes; line += Line) a.prefetcht0(__[ahead + line]);
        if (format == WeightFormat.Bf16)
        {
            a.vmovups(zmm24, __[lines]);
            a.vmovups(zmm25, __[lines + Line]);
            a.vmovups(zmm26, __[lines + 2 * Line]);
            a.vmovups(zmm27, __[lines + 3 * Line]);
        }
        else
        {
            Decode(lines, zmm25, zmm26, pair0: zmm24, pair1: zmm26);
            Decode(lines + Line, zmm27, zmm28, pair0: zmm25, pair1: zmm27);
        }
        MultiplyPair(tile, 0, zmm24, zmm25);
        MultiplyPair(tile, 1, zmm26, zmm27);
    }

    /// <summary>64 codes of 16 columns by 4 k to two vectors: per column the pair k, k + 1, and the pair k + 2, k + 3.</summary>
    private void Decode(AssemblerMemoryOperand line, AssemblerRegisterZMM low, AssemblerRegisterZMM high, AssemblerRegisterZMM pair0, AssemblerRegisterZMM pair1)
    {
        a.vmovdqu64(low, __[line]);
        a.vmovdqa64(high, low);
        a.vpermi2b(low, s_lowTable, __[_low1]);
        a.vpermi2b(high, s_highTable, __[_high1]);
        a.vpternlogd(high, s_sign, __[line], 0xF8); // high | (sign & codes): the look-up takes no notice of a code's sign
        a.vpunpcklbw(pair0, low, high);
        a.vpunpckhbw(pair1, low, high);
    }

    private void MultiplyPair(int tile, int pair, AssemblerRegisterZMM half0, AssemblerRegisterZMM half1)
    {
        for (int row = 0; row < _rows; row++)
        {
            a.vpbroadcastd(zmm28, __dword_ptr[s_operands + (row * RowBytes + 2 * OperandBytes * pair)]);
            a.vdpbf16ps(Sum(row, tile, 0), zmm28, half0);
            a.vdpbf16ps(Sum(row, tile, 1), zmm28, half1);
        }
    }

    private AssemblerRegisterZMM Sum(int row, int tile, int half) => s_zmm[(row * _tiles + tile) * 2 + half];

    /// <summary>Sums[row] += sum * (row's scale * column's scale).</summary>
    private void Promote(int tile, int half)
    {
        a.vmovups(zmm24, __[s_scales + (tile * _blockBytes + half * Line)]);
        EachRow(tile, half, (row, sum, address) =>
        {
            a.vmulps(zmm25, zmm24, __dword_bcst[s_rowScales + sizeof(float) * row]);
            a.vfmadd213ps(sum, zmm25, address);
            a.vmovups(address, sum);
        });
    }

    /// <summary>E8M0 to FP32: 0 is 2^-127 and 255 is NaN, which a shift to the exponent does not give.</summary>
    private void PromoteGroup(int tile, int half)
    {
        a.vpmovzxbd(zmm24, __xmmword_ptr[s_scales + (tile * _blockBytes + half * TileBlock.Columns / 2)]);
        a.vpslld(zmm24, zmm24, 23);
        a.vpcmpeqd(k1, zmm24, __dword_bcst[_infinity]);
        a.vpmaxud(zmm24, zmm24, __dword_bcst[_tiny]);
        a.vpternlogd(zmm24.k1, zmm24, zmm24, 0xFF); // all bits set: NaN
        EachRow(tile, half, (row, sum, address) =>
        {
            a.vfmadd213ps(sum, zmm24, address);
            a.vmovups(address, sum);
        });
    }

    private void EachHalf(Action<int, int> emit)
    {
        for (int tile = 0; tile < _tiles; tile++)
            for (int half = 0; half < 2; half++) emit(tile, half);
    }

    private void EachSum(Action<AssemblerRegisterZMM, AssemblerMemoryOperand> emit) =>
        EachHalf((tile, half) => EachRow(tile, half, (_, sum, address) => emit(sum, address)));

    private void EachRow(int tile, int half, Action<int, AssemblerRegisterZMM, AssemblerMemoryOperand> emit)
    {
        a.mov(s_row, s_sums);
        for (int row = 0; row < _rows; row++)
        {
            emit(row, Sum(row, tile, half), __zmmword_ptr[s_row + (tile * TileBlock.Columns * sizeof(float) + half * Line)]);
            if (row + 1 < _rows) a.add(s_row, s_stride);
        }
    }

    /// <summary>The constants, after the last entry: low bytes and high bytes of 128 codes, then single values.</summary>
    public void EmitTables()
    {
        Span<byte> tables = stackalloc byte[256];
        E4M3TableWeights.FillTables(tables);
        Constant(ref _low0, tables[..64]);
        Constant(ref _low1, tables[64..128]);
        Constant(ref _high0, tables[128..192]);
        Constant(ref _high1, tables[192..]);
        Constant(ref _sign, 0x80808080);
        Constant(ref _infinity, 0x7F800000);
        Constant(ref _tiny, 0x00400000); // 2^-127
        Constant(ref _ones, [.. Enumerable.Repeat(BitConverter.SingleToUInt32Bits(1), MaxRows)]);
    }

    private void Constant(ref Label label, Span<byte> bytes)
    {
        a.Label(ref label);
        a.db(bytes.ToArray());
    }

    private void Constant(ref Label label, params uint[] values)
    {
        a.Label(ref label);
        foreach (uint value in values) a.dd(value);
    }
}
