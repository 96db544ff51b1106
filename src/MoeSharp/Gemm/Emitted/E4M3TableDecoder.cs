using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Decodes E4M3 to BF16 by table with AVX512-VBMI, exactly and NaN included: two look-ups give the low and the high bytes of 64 values. The tables hold
/// only normal numbers, since what multiplies BF16 takes subnormal ones for zero. Half of each table and the sign mask stay in zmm29-31.
/// </summary>
internal sealed class E4M3TableDecoder(Assembler a, ConstantPool constants)
{
    /// <summary>Bytes that are decoded at once.</summary>
    public const int Line = 64;
    private static readonly AssemblerRegisterZMM s_low = zmm29, s_high = zmm30, s_sign = zmm31;
    private Label _low0 = a.CreateLabel(), _low1 = a.CreateLabel(), _high0 = a.CreateLabel(), _high1 = a.CreateLabel();

    public void LoadTables()
    {
        a.vmovdqu64(s_low, __[_low0]);
        a.vmovdqu64(s_high, __[_high0]);
        a.vpbroadcastd(s_sign, constants.One(0x80808080u));
    }

    /// <summary>64 codes of 16 columns by 4 k to two vectors: per column the pair k, k + 1, and the pair k + 2, k + 3.</summary>
    /// <param name="pair1">May be <paramref name="high"/>.</param>
    public void Decode(AssemblerMemoryOperand line, AssemblerRegisterZMM low, AssemblerRegisterZMM high, AssemblerRegisterZMM pair0, AssemblerRegisterZMM pair1)
    {
        a.vmovdqu64(low, line);
        a.vmovdqa64(high, low);
        a.vpermi2b(low, s_low, __[_low1]);
        a.vpermi2b(high, s_high, __[_high1]);
        a.vpternlogd(high, s_sign, line, 0xF8); // high | (sign & codes): the look-up takes no notice of a code's sign
        a.vpunpcklbw(pair0, low, high);
        a.vpunpckhbw(pair1, low, high);
    }

    /// <summary>Writes the tables, after the last function.</summary>
    public void EmitTables()
    {
        Span<byte> tables = stackalloc byte[256];
        E4M3TableWeights.FillTables(tables);
        Table(ref _low0, tables[..64]);
        Table(ref _low1, tables[64..128]);
        Table(ref _high0, tables[128..192]);
        Table(ref _high1, tables[192..]);
    }

    private void Table(ref Label label, Span<byte> bytes)
    {
        a.Label(ref label);
        a.db(bytes.ToArray());
    }
}
