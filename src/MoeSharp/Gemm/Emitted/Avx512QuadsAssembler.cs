using System.Runtime.InteropServices;
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
    private const uint UpperHalf = 0xFFFF0000, Code = 0x87F00000, Exponent = 0x38000000, Signs = 0x80808080;
    private static readonly AssemblerRegisterZMM s_exponents = zmm21, s_code = zmm26, s_exponent = zmm27, s_upperHalf = zmm31;
    private static readonly AssemblerRegisterZMM[] s_lines = [zmm22, zmm23], s_ends = [zmm24, zmm25], s_shifts = [zmm28, zmm29, zmm30, zmm31];
    private readonly Assembler _a = a;
    private readonly ConstantPool _constants = constants;
    private readonly Label[] _shifts = Labels(a, 4), _low = Labels(a, 2), _high = Labels(a, 2);

    public override int Registers => 21;

    public override void LoadDecoder(WeightFormat format)
    {
        if (format == WeightFormat.Bf16)
        {
            _a.vpbroadcastd(s_upperHalf, _constants.One(UpperHalf));
            return;
        }
        for (int k = 0; k < s_shifts.Length; k++) _a.vmovdqu64(s_shifts[k], __[_shifts[k]]);
        _a.vpbroadcastd(s_exponents, _constants.One(0x01010101u * QuadCode.ExponentMask));
        _a.vpbroadcastd(s_code, _constants.One(Code));
        _a.vpbroadcastd(s_exponent, _constants.One(Exponent));
    }

    public bool HasRareCodes => true;

    public void TestRareCodes(AssemblerRegister64 address)
    {
        AssemblerRegisterK[] rare = [k1, k2];
        for (int i = 0; i < s_lines.Length; i++)
        {
            _a.vmovdqu64(s_lines[i], __[address + i * Line]);
            _a.vptestnmb(rare[i], s_lines[i], s_exponents);
        }
        _a.kortestq(k1, k2);
    }

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
        for (int i = 0; k == 0 && i < s_lines.Length; i++) LookUp(s_lines[i], s_ends[i], __[address + i * Line], Z(register), Z(register + 1), Z(temporary));
        for (int i = 0; i < s_lines.Length; i++)
        {
            AssemblerRegisterZMM pairs = k < 2 ? s_lines[i] : s_ends[i];
            if (k % 2 == 0) _a.vpslld(Z(register + i), pairs, 16);
            else _a.vpandd(Z(register + i), pairs, _constants.Every(UpperHalf));
        }
    }

    /// <summary>Four codes of each of 16 columns to BF16: the first two, and the last two.</summary>
    private void LookUp(AssemblerRegisterZMM first, AssemblerRegisterZMM last, AssemblerMemoryOperand codes, AssemblerRegisterZMM low, AssemblerRegisterZMM high, AssemblerRegisterZMM table)
    {
        _a.vmovdqu64(first, codes);
        foreach ((AssemblerRegisterZMM bytes, Label[] halves) in new[] { (low, _low), (high, _high) })
        {
            _a.vmovdqa64(bytes, first);
            _a.vmovdqu64(table, __[halves[0]]);
            _a.vpermi2b(bytes, table, __[halves[1]]);
        }
        _a.vpternlogd(high, first, _constants.Every(Signs), 0xF8); // | codes & signs: the look-up takes no notice of a code's sign
        _a.vpunpcklbw(last, low, high);
        _a.vpunpckhbw(low, low, high);
        _a.vshufps(first, last, low, 0x88);
        _a.vshufps(last, last, low, 0xDD);
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
        for (int k = 0; k < _shifts.Length; k++) Table(_shifts[k], MemoryMarshal.AsBytes<ulong>(Enumerable.Repeat(QuadCode.Shifts(k), Line / sizeof(ulong)).ToArray()));
        byte[] low = new byte[2 * Line], high = new byte[2 * Line];
        for (int code = 0; code < low.Length; code++)
        {
            ushort bits = BFloat16.FromSingle(MathF.ScaleB(Float8E4M3.FromBits((byte)code).ToSingle(), -(int)CodeExponent)).Bits;
            low[QuadCode.Of((byte)code)] = (byte)bits;
            high[QuadCode.Of((byte)code)] = (byte)(bits >> 8);
        }
        foreach ((Label[] halves, byte[] bytes) in new[] { (_low, low), (_high, high) })
            for (int half = 0; half < 2; half++) Table(halves[half], bytes.AsSpan(half * Line, Line));
    }

    private void Table(Label label, ReadOnlySpan<byte> bytes)
    {
        _a.Label(ref label);
        _a.db(bytes.ToArray());
    }

    private static Label[] Labels(Assembler a, int count) => [.. Enumerable.Range(0, count).Select(_ => a.CreateLabel())];
}

/// <summary>How the bits of an E4M3 code lie in <see cref="TileOrder.Quads"/>: sign, the lower four of the other seven, the upper three. Eight bits from a code's first on, and eight from the one before it on, are then the
/// upper half of an FP32 number, but for bits between that do not belong to it.</summary>
internal static class QuadCode
{
    /// <summary>What is 0 of a code that is zero or subnormal.</summary>
    public const uint ExponentMask = 0x47;

    public static byte Of(byte code) => (byte)Of((uint)code);

    /// <summary>The same for four codes.</summary>
    public static uint Of(uint codes) => codes & 0x80808080 | (codes & 0x0F0F0F0F) << 3 | codes >> 4 & 0x07070707;

    /// <summary>Which bits of two quads become two FP32 numbers, for VPMULTISHIFTQB: the first bit of each byte.</summary>
    /// <param name="k">Which of the four.</param>
    public static ulong Shifts(int k)
    {
        ulong shifts = 0;
        for (int quad = 0; quad < 64; quad += 32)
            shifts |= ((ulong)(quad + 8 * k) << 24 | (ulong)(quad + 8 * k - 1 & 63) << 16) << quad;
        return shifts;
    }
}
