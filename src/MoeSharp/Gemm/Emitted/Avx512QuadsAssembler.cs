using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// AVX-512 with VBMI, for weights in <see cref="TileOrder.Quads"/>. A code whose exponent is not 0 becomes an FP32 number by one VPMULTISHIFTQB, which brings each part of it to its place, and one
/// VPTERNLOGD, which keeps those and adds the exponent's other bits: two instructions for 16 codes, where a way through binary16 has five. Four k with other codes among them, zeros and subnormal
/// ones, go by table, as do all where there are NaN codes.
/// </summary>
internal sealed class Avx512QuadsAssembler(Assembler a, ConstantPool constants) : Avx512Assembler(a, constants), IVectorAssembler
{
    private const int Line = 64;
    private const uint UpperHalf = 0xFFFF0000, Code = 0x87F00000, Exponent = 0x38000000;
    private static readonly AssemblerRegisterZMM s_exponents = zmm21, s_code = zmm26, s_exponent = zmm27, s_upperHalf = zmm31;
    private static readonly AssemblerRegisterZMM[] s_lines = [zmm22, zmm23], s_ends = [zmm24, zmm25], s_shifts = [zmm28, zmm29, zmm30, zmm31];
    private readonly Assembler _a = a;
    private readonly ConstantPool _constants = constants;
    private readonly Label[] _shifts = [.. Enumerable.Range(0, s_shifts.Length).Select(_ => a.CreateLabel())];
    private readonly QuadTables _tables = new(a, constants);

    public override int Registers => 21;

    public override void LoadDecoder(WeightFormat format)
    {
        if (format == WeightFormat.Bf16)
        {
            _a.vpbroadcastd(s_upperHalf, _constants.One(UpperHalf));
            return;
        }
        for (int k = 0; k < s_shifts.Length; k++) _a.vmovdqu64(s_shifts[k], __[_shifts[k]]);
        _tables.LoadExponents(s_exponents);
        _a.vpbroadcastd(s_code, _constants.One(Code));
        _a.vpbroadcastd(s_exponent, _constants.One(Exponent));
    }

    public bool HasRareCodes => true;

    public void TestRareCodes(AssemblerRegister64 address) => _tables.LoadAndTest(s_lines, address, 0, s_exponents);

    public override void DecodeE4M3(int register, AssemblerRegister64 address, int k, int column, bool withNaN, int temporary)
    {
        for (int i = 0; i < s_lines.Length; i++)
        {
            _a.vpmultishiftqb(Z(register + i), s_shifts[k], s_lines[i]);
            _a.vpternlogd(Z(register + i), s_code, s_exponent, 0xEA); // & code | exponent
        }
    }

    public void DecodeRareE4M3(int register, AssemblerRegister64 address, int k, int temporary)
    {
        for (int i = 0; k == 0 && i < s_lines.Length; i++) _tables.LookUp(s_lines[i], s_ends[i], __[address + i * Line], Z(register), Z(register + 1), Z(temporary));
        for (int i = 0; i < s_lines.Length; i++)
        {
            AssemblerRegisterZMM pairs = k < 2 ? s_lines[i] : s_ends[i];
            if (k % 2 == 0) _a.vpslld(Z(register + i), pairs, 16);
            else _a.vpandd(Z(register + i), pairs, _constants.Every(UpperHalf));
        }
    }

    void IVectorAssembler.DecodeBf16Columns(int register, AssemblerRegister64 address, int k, int column)
    {
        for (int i = 0; i < 2; i++)
        {
            AssemblerMemoryOperand pairs = __zmmword_ptr[address + ((k / 2 * TileBlock.Columns + column + i * Lanes) * 2 * sizeof(ushort))];
            if (k % 2 == 0) _a.vpslld(Z(register + i), pairs, 16);
            else _a.vpandd(Z(register + i), s_upperHalf, pairs);
        }
    }

    public override bool FoldsScales => true;

    public override void TestFoldedE8M0(AssemblerRegister64 address, int temporary)
    {
        var scales = new AssemblerRegisterYMM(Register.YMM0 + temporary);
        _a.vmovdqu8(scales, __ymmword_ptr[address]);
        _a.vpcmpub(k1, scales, _constants.Wide((254u - CodeExponent) * 0x01010101), 6); // greater
        _a.kortestd(k1, k1);
    }

    public override void DecodeFoldedE8M0(int register, AssemblerRegister64 address, int offset)
    {
        _a.vpmovzxbd(Z(register), __xmmword_ptr[address + offset]);
        _a.vpaddd(Z(register), Z(register), _constants.Every(CodeExponent));
        _a.vpslld(Z(register), Z(register), 23);
    }

    void IVectorAssembler.EmitTables()
    {
        for (int k = 0; k < _shifts.Length; k++) _tables.EmitShifts(_shifts[k], QuadCode.Shifts(k));
        _tables.EmitTables();
    }
}
