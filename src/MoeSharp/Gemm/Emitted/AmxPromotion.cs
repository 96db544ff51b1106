using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static MoeSharp.AmxRegisters;

namespace MoeSharp;

/// <summary>Writes the promotion of 128-blocks: what tiles summed up, times a scale of its row and of its column, is added to the sums. A few rows at a time, beside tile products.</summary>
internal sealed class AmxPromotion(Assembler a, AmxPartials partials)
{
    /// <summary>Of a group, so that the steps of a whole block do all.</summary>
    public const int RowsPerStep = AmxGroup.Rows / AmxEmitter.Steps;
    private const int LineBytes = 64;
    private Label _ones = a.CreateLabel();

    public void LoadScales()
    {
        a.mov(RowScales, __[Block + TileBlock.Offsets.RowScales]);
        a.lea(Depth, __[_ones]);
        a.test(RowScales, RowScales);
        a.cmove(RowScales, Depth);
        a.vmovups(zmm25, __zmmword_ptr[Scales]);
        a.vmovups(zmm26, __zmmword_ptr[Scales + LineBytes]);
    }

    /// <summary>The rows of one step.</summary>
    public void PromoteSome()
    {
        for (int row = 0; row < RowsPerStep; row++) Promote();
    }

    /// <summary>The rows of a group for which a block of less than 128 k had no steps.</summary>
    public void PromoteRest()
    {
        Label end = a.CreateLabel();
        a.mov(Depth, AmxEmitter.Steps);
        a.sub(Depth, Depths);
        a.je(end);
        a.shl(Depth, 3); // RowsPerStep
        PromoteRows();
        a.Label(ref end);
    }

    /// <summary>As many rows as the depth register says.</summary>
    public void PromoteRows()
    {
        Label row = a.CreateLabel();
        a.Label(ref row);
        Promote();
        a.dec(Depth);
        a.jne(row);
    }

    private void Promote()
    {
        a.vmulps(zmm16, zmm25, __dword_bcst[RowScales]);
        a.vmulps(zmm17, zmm26, __dword_bcst[RowScales]);
        partials.AddTimes(Sums, zmm16, zmm17);
        a.add(RowScales, sizeof(float));
        a.add(Partial, AmxPartials.RowBytes);
        a.add(Sums, TileBlock.SumRowBytes);
    }

    /// <summary>Scales for rows without.</summary>
    public void EmitTables()
    {
        a.Label(ref _ones);
        for (int row = 0; row < AmxEmitter.MostRows; row++) a.dd(1f);
    }
}
