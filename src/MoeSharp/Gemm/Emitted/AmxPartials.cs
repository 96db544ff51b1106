using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static MoeSharp.AmxRegisters;

namespace MoeSharp;

/// <summary>The stack of the AMX microkernel: what tiles have summed up leaves them for memory, where vectors can read it. [32 rows][32 columns]: a group's are read before the next group's come.</summary>
internal sealed class AmxPartials(Assembler a)
{
    /// <summary>Bytes of a row.</summary>
    public const int RowBytes = 2 * LineBytes;
    private const int LineBytes = 64, FrameAt = 0, First = LineBytes, Bytes = First + AmxGroup.Rows * RowBytes;

    private static readonly AssemblerRegisterZMM s_codeScale = zmm24;

    /// <summary>Makes room, in whole lines.</summary>
    public void Reserve()
    {
        a.push(rbp);
        a.mov(rbp, rsp);
        foreach (AssemblerRegister64 register in Saved) a.push(register);
        a.sub(rsp, Bytes + LineBytes);
        a.and(rsp, -LineBytes);
        a.mov(__[rsp + FrameAt], rbp); // rbp has work to do
    }

    public void Release()
    {
        a.mov(rbp, __[rsp + FrameAt]);
        a.lea(rsp, __[rbp - 8 * Saved.Length]);
        foreach (AssemblerRegister64 register in Saved.AsEnumerable().Reverse()) a.pop(register);
        a.pop(rbp);
    }

    /// <summary>Goes to a group's first row.</summary>
    public void GoToFirst() => a.lea(Partial, __[rsp + First]);

    /// <summary>Tiles to memory.</summary>
    public void Store(AmxGroup group) => EachTile(group, (tile, address) => a.tilestored(address, tile));

    /// <summary>Memory to tiles.</summary>
    public void Load(AmxGroup group) => EachTile(group, (tile, address) => a.tileloadd(tile, address));

    /// <summary>Tiles start from zero.</summary>
    public void Clear(AmxGroup group) => EachTile(group, (tile, _) => a.tilezero(tile));

    /// <summary>Code for a row of a group, in a loop: its partial sums, and its sums.</summary>
    public void EachRow(AmxGroup group, Action emit)
    {
        Label row = a.CreateLabel();
        GoToFirst();
        a.mov(RowSums, Sums);
        a.mov(Count, AmxGroup.Rows);
        a.cmp(Count, RowsLeft);
        a.cmova(Count, RowsLeft);
        a.Label(ref row);
        emit();
        a.add(Partial, RowBytes);
        a.add(RowSums, TileBlock.SumRowBytes);
        a.dec(Count);
        a.jne(row);
    }

    /// <summary>What partial sums of codes are multiplied by: decoded codes are their values divided by it.</summary>
    public void LoadCodeScale(ConstantPool constants) => a.vbroadcastss(s_codeScale, constants.One(QuadCode.Scale));

    /// <summary>Sums += partial * code scale * factors, a row.</summary>
    public void AddTimes(AssemblerRegister64 sums, AssemblerRegisterZMM factor0, AssemblerRegisterZMM factor1)
    {
        a.vmulps(zmm18, s_codeScale, __zmmword_ptr[Partial]);
        a.vmulps(zmm19, s_codeScale, __zmmword_ptr[Partial + LineBytes]);
        a.vfmadd213ps(zmm18, factor0, __zmmword_ptr[sums]);
        a.vfmadd213ps(zmm19, factor1, __zmmword_ptr[sums + LineBytes]);
        a.vmovups(__zmmword_ptr[sums], zmm18);
        a.vmovups(__zmmword_ptr[sums + LineBytes], zmm19);
    }

    /// <summary>A row from partial sums to sums, or back.</summary>
    public void Copy(AssemblerRegister64 from, AssemblerRegister64 to)
    {
        a.vmovups(zmm18, __zmmword_ptr[from]);
        a.vmovups(zmm19, __zmmword_ptr[from + LineBytes]);
        a.vmovups(__zmmword_ptr[to], zmm18);
        a.vmovups(__zmmword_ptr[to + LineBytes], zmm19);
    }

    private static void EachTile(AmxGroup group, Action<AssemblerRegisterTMM, AssemblerMemoryOperand> emit)
    {
        AssemblerRegisterTMM[] tiles = [tmm0, tmm1, tmm2, tmm3];
        for (int i = 0; i < 2 * group.RowTiles; i++)
            emit(tiles[i], __[rsp + Line * 2 + (First + i / 2 * AmxEmitter.TileRows * RowBytes + i % 2 * LineBytes)]);
    }
}
