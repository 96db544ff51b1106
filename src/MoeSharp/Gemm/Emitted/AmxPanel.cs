using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the decoding of a packed block for tile products: 64 lines of 64 codes become [64 pairs of k][32 columns][2] BF16, as BF16 weights are packed.
/// It is cut into steps of 32 k: what products of this block have used for the last time makes room for the same k of the next block. One panel, since the first cache is what
/// limits more than 32 rows.
/// </summary>
internal sealed class AmxPanel(Assembler a, ConstantPool constants)
{
    /// <summary>Bytes of a decoded block.</summary>
    public const int Bytes = TileBlock.MaxDepth * TileBlock.Columns * sizeof(ushort);
    private const int Line = 64, StepLines = 16, PairBytes = 2 * Line;
    private static readonly AssemblerRegister64 s_codes = rax, s_target = r14, s_rest = r12;
    private readonly E4M3TableDecoder _decoder = new(a, constants, wholeTables: true);

    /// <summary>Which block to decode, and where to.</summary>
    public void LoadArguments(AssemblerRegister64 block)
    {
        _decoder.LoadTables();
        a.mov(s_codes, __[block + TileBlock.Offsets.Next]);
        a.mov(s_target, __[block + TileBlock.Offsets.Decoded]);
    }

    /// <summary>What to ask for meanwhile: a block, whose scales it asks for at once.</summary>
    public void LoadAhead(AssemblerRegister64 block, int scaleBytes)
    {
        a.mov(AmxRegisters.Ahead, __[block + TileBlock.Offsets.Ahead]);
        if (scaleBytes > 0) Prefetch(scaleBytes / Line);
    }

    /// <summary>Asks for lines. Not many at a time: a core has few requests under way, and a burst of them holds up what is being computed.</summary>
    public void Prefetch(int lines)
    {
        for (int line = 0; line < lines; line++) a.prefetcht0(__[AmxRegisters.Ahead + line * Line]);
        a.add(AmxRegisters.Ahead, lines * Line);
    }

    /// <summary>32 k.</summary>
    public void EmitStep()
    {
        for (int line = 0; line < StepLines; line++)
        {
            int target = line / 2 * 2 * PairBytes + line % 2 * Line;
            _decoder.Decode(__[s_codes + line * Line], zmm0, zmm1, pair0: zmm2, pair1: zmm1);
            a.vmovups(__zmmword_ptr[s_target + target], zmm2);
            a.vmovups(__zmmword_ptr[s_target + target + PairBytes], zmm1);
        }
        a.add(s_codes, StepLines * Line);
        a.add(s_target, 2 * StepLines * Line);
    }

    /// <summary>What a block of less than 128 k had no steps for.</summary>
    public void EmitRest(AssemblerRegister64 depths)
    {
        Label end = a.CreateLabel();
        a.mov(s_rest, AmxEmitter.Steps);
        a.sub(s_rest, depths);
        a.je(end);
        EmitSteps();
        a.Label(ref end);
    }

    /// <summary>A whole block, with nothing beside it.</summary>
    public void EmitWhole(AssemblerRegister64 block)
    {
        LoadArguments(block);
        LoadAhead(block, TileBlock.ScaleBytes);
        a.mov(s_rest, AmxEmitter.Steps);
        EmitSteps();
    }

    private void EmitSteps()
    {
        Label step = a.CreateLabel();
        a.Label(ref step);
        EmitStep();
        Prefetch(StepLines);
        a.dec(s_rest);
        a.jne(step);
    }

    public void EmitTables() => _decoder.EmitTables();
}
