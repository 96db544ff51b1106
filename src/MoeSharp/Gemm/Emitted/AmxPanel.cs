using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the decoding of a packed block for tile products: 64 lines of 64 codes in <see cref="TileOrder.Quads"/> become [64 pairs of k][32 columns][2] BF16, as BF16 weights are packed. Bits are moved to their
/// places; two lines with zero or subnormal codes among them go by table, and all where there are NaN codes. It is cut into steps of 32 k: what products of this block have used for the last time makes room for the
/// same k of the next block. One panel, since the first cache is what limits more than 32 rows.
/// </summary>
internal sealed class AmxPanel(Assembler a, ConstantPool constants, bool withNaN)
{
    /// <summary>Bytes of a decoded block.</summary>
    public const int Bytes = TileBlock.MaxDepth * TileBlock.Columns * sizeof(ushort);
    private const int Line = 64, StepLines = 16, PairBytes = 2 * Line;
    private const uint Code = 0x87F087F0, Exponent = 0x38003800;
    private static readonly AssemblerRegister64 s_codes = rax, s_target = r14, s_rest = r12, s_rare = rbp;
    private static readonly AssemblerRegisterZMM s_exponents = zmm27, s_code = zmm28, s_exponent = zmm29;
    private static readonly AssemblerRegisterZMM[] s_lines = [zmm0, zmm1], s_shifts = [zmm30, zmm31];
    private readonly QuadTables _tables = new(a, constants);
    private readonly Label[] _shifts = [a.CreateLabel(), a.CreateLabel()];
    private readonly List<Action> _rare = [];
    private Label _byTable = a.CreateLabel();

    /// <summary>Which block to decode, and where to.</summary>
    public void LoadArguments(AssemblerRegister64 block)
    {
        for (int pair = 0; pair < s_shifts.Length; pair++) a.vmovdqu64(s_shifts[pair], __[_shifts[pair]]);
        _tables.LoadExponents(s_exponents);
        a.vpbroadcastd(s_code, constants.One(Code));
        a.vpbroadcastd(s_exponent, constants.One(Exponent));
        a.mov(s_codes, __[block + TileBlock.Offsets.Next]);
        a.mov(s_target, __[block + TileBlock.Offsets.Decoded]);
    }

    /// <summary>What to ask for meanwhile: a block, whose scales it asks for at once.</summary>
    public void LoadAhead(AssemblerRegister64 block, int scaleBytes)
    {
        a.mov(AmxRegisters.Ahead, __[block + TileBlock.Offsets.Ahead]);
        a.mov(AmxRegisters.Further, __[block + TileBlock.Offsets.Further]);
        if (scaleBytes > 0) Prefetch(scaleBytes / Line);
    }

    /// <summary>Asks for lines. Not many at a time: a core has few requests under way, and a burst of them holds up what is being computed.</summary>
    public void Prefetch(int lines)
    {
        for (int line = 0; line < lines; line++)
        {
            a.prefetcht0(__[AmxRegisters.Ahead + line * Line]);
            a.prefetcht1(__[AmxRegisters.Ahead + AmxRegisters.Further + line * Line]);
        }
        a.add(AmxRegisters.Ahead, lines * Line);
    }

    /// <summary>32 k.</summary>
    public void EmitStep()
    {
        for (int line = 0; line < StepLines; line += s_lines.Length) EmitLines(line);
        a.add(s_codes, StepLines * Line);
        a.add(s_target, 2 * StepLines * Line);
    }

    /// <summary>Two lines, four k of 32 columns, which become two rows of the panel.</summary>
    private void EmitLines(int line)
    {
        if (withNaN)
        {
            CallTable(line);
            return;
        }
        Label rare = a.CreateLabel(), next = a.CreateLabel();
        _tables.LoadAndTest(s_lines, s_codes, line * Line, s_exponents);
        a.jne(rare);
        for (int pair = 0; pair < s_shifts.Length; pair++)
            for (int i = 0; i < s_lines.Length; i++)
            {
                a.vpmultishiftqb(zmm2, s_shifts[pair], s_lines[i]);
                a.vpternlogd(zmm2, s_code, s_exponent, 0xEA); // & code | exponent
                a.vmovups(__zmmword_ptr[s_target + ((line + pair) * PairBytes + i * Line)], zmm2);
            }
        a.Label(ref next);
        _rare.Add(() =>
        {
            a.Label(ref rare);
            CallTable(line);
            a.jmp(next);
        });
    }

    private void CallTable(int line)
    {
        a.mov(s_rare, line * Line);
        a.call(_byTable);
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

    /// <summary>What a function leaves for behind its end.</summary>
    public void EmitRare()
    {
        foreach (Action emit in _rare) emit();
        _rare.Clear();
    }

    /// <summary>What functions call and read, after the last.</summary>
    public void EmitTables()
    {
        a.Label(ref _byTable);
        for (int i = 0; i < s_lines.Length; i++)
        {
            _tables.LookUp(zmm0, zmm1, __[s_codes + s_rare + i * Line], zmm2, zmm3, zmm4);
            a.vmovups(__zmmword_ptr[s_target + s_rare * 2 + i * Line], zmm0);
            a.vmovups(__zmmword_ptr[s_target + s_rare * 2 + (PairBytes + i * Line)], zmm1);
        }
        a.ret();
        _tables.EmitTables();
        for (int pair = 0; pair < _shifts.Length; pair++) _tables.EmitShifts(_shifts[pair], QuadCode.PairShifts(pair));
    }
}
