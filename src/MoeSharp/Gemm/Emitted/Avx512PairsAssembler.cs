using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// AVX-512 with VBMI, for weights in <see cref="TileOrder.Pairs"/>: tables make BF16 of FP8 codes, NaN included and without a code scale, and a shift or a mask makes FP32 of that: 3.25
/// instructions for 16 codes where a way through binary16 has five.
/// </summary>
internal sealed class Avx512PairsAssembler(Assembler a, ConstantPool constants) : Avx512Assembler(a, constants), IVectorAssembler
{
    private const uint UpperHalf = 0xFFFF0000;
    private static readonly AssemblerRegisterZMM s_pair00 = zmm25, s_pair01 = zmm26, s_pair10 = zmm27, s_pair11 = zmm28, s_upperHalf = zmm31;
    private readonly Assembler _a = a;
    private readonly ConstantPool _constants = constants;
    private readonly E4M3TableDecoder _decoder = new(a, constants);

    public override int Registers => 25;

    public override void LoadDecoder(WeightFormat format)
    {
        if (format == WeightFormat.Bf16) _a.vpbroadcastd(s_upperHalf, _constants.One(UpperHalf));
        else _decoder.LoadTables();
    }

    public override void DecodeE4M3(int register, AssemblerRegister64 address, int k, int column, bool withNaN, int temporary)
    {
        if (k == 0)
        {
            _decoder.Decode(__[address], Z(register), s_pair10, pair0: s_pair00, pair1: s_pair10);
            _decoder.Decode(__[address + E4M3TableDecoder.Line], Z(register), s_pair11, pair0: s_pair01, pair1: s_pair11);
        }
        AssemblerRegisterZMM[] halves = k < 2 ? [s_pair00, s_pair01] : [s_pair10, s_pair11];
        for (int i = 0; i < 2; i++)
        {
            if (k % 2 == 0) _a.vpslld(Z(register + i), halves[i], 16);
            else _a.vpandd(Z(register + i), halves[i], _constants.Every(UpperHalf));
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

    // Tables hold values: there is no code scale.
    public override void MultiplyByCodeScale(int register) { }
    public override void MultiplyCodesByCodeScale(int register, int temporary) { }
    public override void LoadCodeScale(int register) { }

    void IVectorAssembler.EmitTables() => _decoder.EmitTables();
}
