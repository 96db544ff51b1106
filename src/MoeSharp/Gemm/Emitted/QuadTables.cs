using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>What kernels share that decode <see cref="TileOrder.Quads"/> with AVX512-VBMI by moving bits: the search for codes that this does not decode, zeros and subnormal ones, and the way by table
/// for those and NaN, exactly, as values / 2^8 too.</summary>
internal sealed class QuadTables(Assembler a, ConstantPool constants)
{
    private const int Line = 64;
    private const uint Signs = 0x80808080;
    private readonly Label[] _low = [a.CreateLabel(), a.CreateLabel()], _high = [a.CreateLabel(), a.CreateLabel()];

    /// <summary>What <see cref="LoadAndTest"/> tests with.</summary>
    public void LoadExponents(AssemblerRegisterZMM exponents) => a.vpbroadcastd(exponents, constants.One(0x01010101u * QuadCode.ExponentMask));

    /// <summary>Two lines, four codes of each of 32 columns; the zero flag says that moving bits decodes them all.</summary>
    public void LoadAndTest(AssemblerRegisterZMM[] lines, AssemblerRegister64 address, int offset, AssemblerRegisterZMM exponents)
    {
        AssemblerRegisterK[] rare = [k1, k2];
        for (int i = 0; i < lines.Length; i++)
        {
            a.vmovdqu64(lines[i], __[address + (offset + i * Line)]);
            a.vptestnmb(rare[i], lines[i], exponents);
        }
        a.kortestq(k1, k2);
    }

    /// <summary>Writes the first bits of VPMULTISHIFTQB, the same for every quadword.</summary>
    public void EmitShifts(Label label, ulong shifts)
    {
        a.Label(ref label);
        for (int i = 0; i < Line / sizeof(ulong); i++) a.dq(shifts);
    }

    /// <summary>Four codes of each of 16 columns to BF16: the first two, and the last two.</summary>
    public void LookUp(AssemblerRegisterZMM first, AssemblerRegisterZMM last, AssemblerMemoryOperand codes, AssemblerRegisterZMM low, AssemblerRegisterZMM high, AssemblerRegisterZMM table)
    {
        a.vmovdqu64(first, codes);
        foreach ((AssemblerRegisterZMM bytes, Label[] halves) in new[] { (low, _low), (high, _high) })
        {
            a.vmovdqa64(bytes, first);
            a.vmovdqu64(table, __[halves[0]]);
            a.vpermi2b(bytes, table, __[halves[1]]);
        }
        a.vpternlogd(high, first, constants.Every(Signs), 0xF8); // | codes & signs: the look-up takes no notice of a code's sign
        a.vpunpcklbw(last, low, high);
        a.vpunpckhbw(low, low, high);
        a.vshufps(first, last, low, 0x88);
        a.vshufps(last, last, low, 0xDD);
    }

    /// <summary>Writes the tables, after the last function.</summary>
    public void EmitTables()
    {
        byte[] low = new byte[2 * Line], high = new byte[2 * Line];
        for (int code = 0; code < low.Length; code++)
        {
            ushort bits = BFloat16.FromSingle(MathF.ScaleB(Float8E4M3.FromBits((byte)code).ToSingle(), -QuadCode.Exponent)).Bits;
            low[QuadCode.Of((byte)code)] = (byte)bits;
            high[QuadCode.Of((byte)code)] = (byte)(bits >> 8);
        }
        foreach ((Label[] halves, byte[] bytes) in new[] { (_low, low), (_high, high) })
            for (int half = 0; half < 2; half++)
            {
                a.Label(ref halves[half]);
                a.db(bytes[(half * Line)..((half + 1) * Line)]);
            }
    }
}
