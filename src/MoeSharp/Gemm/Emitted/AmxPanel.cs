using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the decoding of a packed block for tile products: 64 lines of 64 codes become [64 pairs of k][32 columns][2] BF16, as BF16 weights are packed.
/// It is cut into units, so that each step of another block's products has some beside it, and asks for memory at the same pace: a core has few requests under
/// way at a time, and a burst of them holds up what is being computed.
/// </summary>
internal sealed class AmxPanel(Assembler a, ConstantPool constants)
{
    /// <summary>Bytes of a decoded block.</summary>
    public const int Bytes = TileBlock.MaxDepth * TileBlock.Columns * sizeof(ushort);
    /// <summary>Units for 32 k.</summary>
    public const int UnitsPerDepth = 2;
    private const int Line = 64, UnitLines = 8, UnitBytes = UnitLines * Line, PairBytes = 2 * Line, Depths = 4;
    private static readonly AssemblerRegister64 s_codes = rax, s_target = r14, s_ahead = r10, s_rest = r12;
    private readonly E4M3TableDecoder _decoder = new(a, constants, wholeTables: true);

    /// <summary>Which block to decode, where to, and what to ask for meanwhile: a block with its scales.</summary>
    public void LoadArguments(AssemblerRegister64 block)
    {
        _decoder.LoadTables();
        a.mov(s_codes, __[block + TileBlock.Offsets.Next]);
        a.mov(s_target, __[block + TileBlock.Offsets.DecodedNext]);
        a.mov(s_ahead, __[block + TileBlock.Offsets.Ahead]);
        for (int line = 0; line < TileBlock.ScaleBytes; line += Line) a.prefetcht0(__[s_ahead + line]);
        a.add(s_ahead, TileBlock.ScaleBytes);
    }

    public void EmitUnits(int count)
    {
        for (int unit = 0; unit < count; unit++) EmitUnit();
    }

    private void EmitUnit()
    {
        for (int line = 0; line < UnitLines; line++)
        {
            int target = line / 2 * 2 * PairBytes + line % 2 * Line;
            a.prefetcht0(__[s_ahead + line * Line]);
            _decoder.Decode(__[s_codes + line * Line], zmm0, zmm1, pair0: zmm2, pair1: zmm1);
            a.vmovups(__zmmword_ptr[s_target + target], zmm2);
            a.vmovups(__zmmword_ptr[s_target + target + PairBytes], zmm1);
        }
        a.add(s_codes, UnitBytes);
        a.add(s_ahead, UnitBytes);
        a.add(s_target, 2 * UnitBytes);
    }

    /// <summary>What a block of less than 128 k had no steps for.</summary>
    public void EmitRest(AssemblerRegister64 depths)
    {
        Label depth = a.CreateLabel(), end = a.CreateLabel();
        a.mov(s_rest, Depths);
        a.sub(s_rest, depths);
        a.je(end);
        a.Label(ref depth);
        EmitUnits(UnitsPerDepth);
        a.dec(s_rest);
        a.jne(depth);
        a.Label(ref end);
    }

    /// <summary>A whole block, with nothing beside it.</summary>
    public void EmitWhole(AssemblerRegister64 block)
    {
        Label depth = a.CreateLabel();
        LoadArguments(block);
        a.mov(s_rest, Depths);
        a.Label(ref depth);
        EmitUnits(UnitsPerDepth);
        a.dec(s_rest);
        a.jne(depth);
    }

    public void EmitTables() => _decoder.EmitTables();
}
