using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>Writes the end of Down, sums to BF16 rows, and Combine, weighted sums of a token's rows, for AVX-512F and a number of columns.</summary>
internal sealed class CombineEmitter(Assembler a, ConstantPool constants, int columns)
{
    private const int Lanes = 16;
    private static readonly AssemblerRegisterZMM[] s_totals = [zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7];
    private readonly int _vectors = columns / Lanes;

    /// <summary>Most columns that fit the registers.</summary>
    public const int MaxColumns = 128;

    /// <summary>void(RoundRows*).</summary>
    public void EmitRound(bool hasBiases)
    {
        var vectors = new Vector512Emitter(a, constants);
        Label tile = a.CreateLabel(), row = a.CreateLabel();
        a.mov(rax, __[rdi + RoundRows.SumsAt]);
        a.mov(rcx, __[rdi + RoundRows.BiasAt]);
        a.mov(r8, __[rdi + RoundRows.RoundedAt]);
        a.mov(r9d, columns / TileBlock.Columns);
        a.Label(ref tile);
        a.mov(rdx, r8);
        a.mov(rsi, __[rdi + RoundRows.RowsAt]);
        a.Label(ref row);
        for (int v = 0; v < TileBlock.Columns / Lanes; v++)
        {
            a.vmovups(zmm0, __zmmword_ptr[rax + v * Lanes * sizeof(float)]);
            if (hasBiases) a.vaddps(zmm0, zmm0, __zmmword_ptr[rcx + v * Lanes * sizeof(float)]);
            vectors.RoundToBf16(zmm0, zmm1);
            vectors.StoreBf16(__ymmword_ptr[rdx + v * Lanes * 2], zmm0);
        }
        a.add(rax, TileBlock.SumRowBytes);
        a.add(rdx, columns * 2);
        a.dec(rsi);
        a.jne(row);
        a.add(rcx, TileBlock.SumRowBytes);
        a.add(r8, TileBlock.Columns * 2);
        a.dec(r9d);
        a.jne(tile);
        a.vzeroupper();
        a.ret();
    }

    /// <summary>void(CombineRows*).</summary>
    public void EmitCombine()
    {
        var vectors = new Vector512Emitter(a, constants);
        Label slot = a.CreateLabel(), next = a.CreateLabel();
        a.mov(rax, __[rdi + CombineRows.RowsAt]);
        a.mov(rcx, __[rdi + CombineRows.RowOfSlotAt]);
        a.mov(rdx, __[rdi + CombineRows.WeightsAt]);
        a.mov(rsi, __[rdi + CombineRows.TargetAt]);
        a.mov(r8, __[rdi + CombineRows.TopKAt]);
        for (int v = 0; v < _vectors; v++) a.vpxord(s_totals[v], s_totals[v], s_totals[v]);
        a.Label(ref slot);
        a.movsxd(r9, __dword_ptr[rcx]);
        a.test(r9, r9);
        a.js(next);
        a.imul(r9, r9, columns * 2);
        a.vbroadcastss(zmm8, __dword_ptr[rdx]);
        for (int v = 0; v < _vectors; v++)
        {
            a.vpmovzxwd(zmm9, __ymmword_ptr[rax + r9 + v * Lanes * 2]);
            a.vpslld(zmm9, zmm9, 16);
            a.vfmadd231ps(s_totals[v], zmm9, zmm8);
        }
        a.Label(ref next);
        a.add(rcx, sizeof(int));
        a.add(rdx, sizeof(float));
        a.dec(r8);
        a.jne(slot);
        for (int v = 0; v < _vectors; v++)
        {
            vectors.RoundToBf16(s_totals[v], zmm9);
            vectors.StoreBf16(__ymmword_ptr[rsi + v * Lanes * 2], s_totals[v]);
        }
        a.vzeroupper();
        a.ret();
    }
}
