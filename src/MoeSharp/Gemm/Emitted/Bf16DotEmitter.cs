using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the microkernel for a number of rows. Sums stay in registers over a 128-K block (a 32-K group for MXFP8), two vectors of 16 columns per row.
/// A step takes 4 k: each half of the tile is one line of 64 codes, decoded to two vectors of BF16 pairs.
/// </summary>
/// <remarks>
/// Registers: zmm0-23 sums, zmm24-28 what is being decoded and a pair of operands of one row in every lane, zmm29-31 the decoder's.
/// </remarks>
internal sealed unsafe class Bf16DotEmitter(Assembler a, ConstantPool constants, WeightFormat format)
{
    /// <summary>Rows whose sums fit the registers.</summary>
    public const int MaxRows = 12;
    private const int Line = 64, StepDepth = 4, GroupDepth = 32, OperandBytes = 2, RowBytes = OperandBytes * TileBlock.MaxDepth;

    private static readonly AssemblerRegister64 s_block = rdi, s_weights = rax, s_operands = rsi, s_sums = rdx, s_rowScales = r8,
        s_groups = r8, s_scales = r9, s_ahead = r10, s_aheadStep = rbx, s_steps = r11;

    private static readonly AssemblerRegisterZMM[] s_zmm =
    [
        zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14, zmm15,
        zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23,
    ];

    private readonly bool _promotes = format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo, _mx = format == WeightFormat.MxFp8;
    private readonly int _stepBytes = StepDepth * TileBlock.Columns * format.ValueBytes();
    private readonly E4M3TableDecoder _decoder = new(a, constants);
    private Label _ones = a.CreateLabel();
    private int _rows;

    /// <summary>One function: void(TileBlock*), System V.</summary>
    public void EmitEntry(int rows)
    {
        _rows = rows;
        a.push(rbx);
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
        a.pop(rbx);
        a.ret();
    }

    private void LoadArguments()
    {
        a.mov(s_weights, __[s_block + TileBlock.Offsets.Weights]);
        a.mov(s_scales, __[s_block + TileBlock.Offsets.Scales]);
        a.mov(s_operands, __[s_block + TileBlock.Offsets.Operands]);
        a.mov(s_sums, __[s_block + TileBlock.Offsets.Sums]);
        a.mov(s_ahead, __[s_block + TileBlock.Offsets.Ahead]);
        a.mov(s_aheadStep, __[s_block + TileBlock.Offsets.AheadStep]);
        a.mov(r11d, __dword_ptr[s_block + TileBlock.Offsets.Depth]);
        if (_mx) a.lea(r8d, __[s_steps + (GroupDepth - 1)]);
        if (_mx) a.shr(r8d, 5);
        a.add(r11d, StepDepth - 1);
        a.shr(r11d, 2);
        if (_promotes)
        {
            a.mov(s_rowScales, __[s_block + TileBlock.Offsets.RowScales]);
            a.lea(rcx, __[_ones]);
            a.test(s_rowScales, s_rowScales);
            a.cmove(s_rowScales, rcx);
        }
        for (int line = 0; line < _rows * TileBlock.SumRowBytes; line += Line) a.prefetchw(__[s_sums + line]); // the sums of an item do not fit the first cache beside all else
        if (format == WeightFormat.Bf16) return;
        _decoder.LoadTables();
        for (int line = 0; line < TileBlock.ScaleBytes; line += Line) a.prefetcht0(__[s_ahead + line]);
        a.add(s_ahead, TileBlock.ScaleBytes);
    }

    private void ClearSums()
    {
        for (int i = 0; i < 2 * _rows; i++) a.vpxord(s_zmm[i], s_zmm[i], s_zmm[i]);
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
        EmitStep();
        a.add(s_weights, _stepBytes);
        a.add(s_operands, StepDepth * OperandBytes);
        a.dec(r11d);
        a.jne(step);
    }

    private void EmitStep()
    {
        for (int line = 0; line < _stepBytes; line += Line) a.prefetcht0(__[s_ahead + line]);
        a.add(s_ahead, s_aheadStep);
        if (format == WeightFormat.Bf16)
        {
            a.vmovups(zmm24, __[s_weights]);
            a.vmovups(zmm25, __[s_weights + Line]);
            a.vmovups(zmm26, __[s_weights + 2 * Line]);
            a.vmovups(zmm27, __[s_weights + 3 * Line]);
        }
        else
        {
            _decoder.Decode(__[s_weights], zmm25, zmm26, pair0: zmm24, pair1: zmm26);
            _decoder.Decode(__[s_weights + Line], zmm27, zmm28, pair0: zmm25, pair1: zmm27);
        }
        MultiplyPair(0, zmm24, zmm25);
        MultiplyPair(1, zmm26, zmm27);
    }

    private void MultiplyPair(int pair, AssemblerRegisterZMM half0, AssemblerRegisterZMM half1)
    {
        for (int row = 0; row < _rows; row++)
        {
            a.vpbroadcastd(zmm28, __dword_ptr[s_operands + (row * RowBytes + 2 * OperandBytes * pair)]);
            a.vdpbf16ps(Sum(row, 0), zmm28, half0);
            a.vdpbf16ps(Sum(row, 1), zmm28, half1);
        }
    }

    private AssemblerRegisterZMM Sum(int row, int half) => s_zmm[row * 2 + half];

    /// <summary>Sums[row] += sum * (row's scale * column's scale).</summary>
    private void Promote(int half)
    {
        a.vmovups(zmm24, __[s_scales + half * Line]);
        EachRow(half, (row, sum, address) =>
        {
            a.vmulps(zmm25, zmm24, __dword_bcst[s_rowScales + sizeof(float) * row]);
            a.vfmadd213ps(sum, zmm25, address);
            a.vmovups(address, sum);
        });
    }

    /// <summary>E8M0 to FP32: 0 is 2^-127 and 255 is NaN, which a shift to the exponent does not give.</summary>
    private void PromoteGroup(int half)
    {
        a.vpmovzxbd(zmm24, __xmmword_ptr[s_scales + half * TileBlock.Columns / 2]);
        a.vpslld(zmm24, zmm24, 23);
        a.vpcmpeqd(k1, zmm24, constants.Every(0x7F800000u));
        a.vpmaxud(zmm24, zmm24, constants.Every(0x00400000u));
        a.vpternlogd(zmm24.k1, zmm24, zmm24, 0xFF); // all bits set: NaN
        EachRow(half, (row, sum, address) =>
        {
            a.vfmadd213ps(sum, zmm24, address);
            a.vmovups(address, sum);
        });
    }

    private void EachHalf(Action<int> emit)
    {
        for (int half = 0; half < 2; half++) emit(half);
    }

    private void EachSum(Action<AssemblerRegisterZMM, AssemblerMemoryOperand> emit) =>
        EachHalf(half => EachRow(half, (_, sum, address) => emit(sum, address)));

    private void EachRow(int half, Action<int, AssemblerRegisterZMM, AssemblerMemoryOperand> emit)
    {
        for (int row = 0; row < _rows; row++) emit(row, Sum(row, half), __zmmword_ptr[s_sums + (row * TileBlock.SumRowBytes + half * Line)]);
    }

    /// <summary>What entries read beside constants, after the last of them.</summary>
    public void EmitTables()
    {
        _decoder.EmitTables();
        a.Label(ref _ones);
        for (int row = 0; row < MaxRows; row++) a.dd(1f);
    }
}
