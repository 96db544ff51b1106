using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the AMX microkernel for any number of rows: one 128-K block times one tile of 32 columns. Codes are decoded once to BF16 pairs on the stack;
/// then 32 rows at a time make four chains of tile products (two row tiles by two column tiles), as many as hide the latency of one. Sums go by way of
/// the stack too, where vectors scale them. Every row goes through the same products, also in a tile that is not full.
/// </summary>
/// <remarks>Tiles: 0-3 sums, 4-5 operands, 6-7 weights. A row tile reads 16 rows of operands, whatever lies after the last.</remarks>
internal sealed class AmxBlockEmitter(Assembler a, ConstantPool constants, WeightFormat format)
{
    /// <summary>Rows of a tile: so many rows of operands must be readable from the first of every 16.</summary>
    public const int TileRows = 16;
    private const int Line = 64, StepDepth = 4, TileDepth = 32, TileSteps = TileDepth / StepDepth, RowBytes = 2 * TileBlock.MaxDepth;
    private const int TileBytes = 1024, WeightsBytes = 8 * TileBytes, SumRowBytes = 2 * Line, SumsBytes = 2 * TileRows * SumRowBytes;

    private static readonly AssemblerRegister64 s_block = rdi, s_weights = rax, s_ahead = r10; // until the weights are decoded
    private static readonly AssemblerRegister64 s_operands = rsi, s_sums = rdx, s_stride = rcx, s_rowScales = r8, s_rowScaleStep = r12, s_scales = r9,
        s_decoded = r11, s_partial = r14, s_rows = rbx, s_depths = r13, s_line = r10, s_left = rax, s_right = rdi, s_count = r15;

    private static readonly AssemblerRegister64[] s_saved = [rbx, r12, r13, r14, r15];

    private readonly E4M3TableDecoder _decoder = new(a, constants);
    private readonly bool _promotes = format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo, _mx = format == WeightFormat.MxFp8;
    private readonly bool _decodes = format != WeightFormat.Bf16;
    private Label _configuration = a.CreateLabel(), _one = a.CreateLabel();

    /// <summary>The function: void(TileBlock*), System V.</summary>
    public void EmitEntry()
    {
        a.push(rbp);
        a.mov(rbp, rsp);
        foreach (AssemblerRegister64 register in s_saved) a.push(register);
        a.sub(rsp, WeightsBytes + SumsBytes + Line);
        a.and(rsp, -Line);
        a.ldtilecfg(__[_configuration]);
        LoadArguments();
        if (_decodes) DecodeWeights();
        else PrefetchWeights();
        a.mov(s_line, Line);
        if (_promotes)
        {
            a.vmovups(zmm30, __zmmword_ptr[s_scales]);
            a.vmovups(zmm31, __zmmword_ptr[s_scales + Line]);
        }
        EmitRows();
        a.tilerelease();
        a.vzeroupper();
        a.lea(rsp, __[rbp - 8 * s_saved.Length]);
        foreach (AssemblerRegister64 register in s_saved.AsEnumerable().Reverse()) a.pop(register);
        a.pop(rbp);
        a.ret();
    }

    private void LoadArguments()
    {
        a.mov(s_weights, __[s_block + TileBlock.Offsets.Weights]);
        a.mov(s_scales, __[s_block + TileBlock.Offsets.Scales]);
        a.mov(s_operands, __[s_block + TileBlock.Offsets.Operands]);
        a.mov(s_sums, __[s_block + TileBlock.Offsets.Sums]);
        a.mov(s_stride, __[s_block + TileBlock.Offsets.SumStride]);
        a.shl(s_stride, 2);
        a.mov(s_ahead, __[s_block + TileBlock.Offsets.Ahead]);
        a.mov(ebx, __dword_ptr[s_block + TileBlock.Offsets.RowCount]);
        a.mov(r13d, __dword_ptr[s_block + TileBlock.Offsets.Depth]);
        a.add(r13d, TileDepth - 1);
        a.shr(r13d, 5);
        a.mov(s_rowScales, __[s_block + TileBlock.Offsets.RowScales]);
        a.lea(s_decoded, __[_one]);
        a.mov(r12d, sizeof(float));
        a.xor(r15d, r15d);
        a.test(s_rowScales, s_rowScales);
        a.cmove(s_rowScales, s_decoded);
        a.cmove(s_rowScaleStep, s_count);
        a.mov(s_decoded, _decodes ? rsp : s_weights);
        a.lea(s_partial, __[rsp + WeightsBytes]);
    }

    /// <summary>Packed lines to tiles of BF16 pairs: [32 k][16 columns each][pair][column][2].</summary>
    private void DecodeWeights()
    {
        Label depth = a.CreateLabel();
        _decoder.LoadTables();
        for (int line = 0; line < TileBlock.ScaleBytes; line += Line) a.prefetcht0(__[s_ahead + line]);
        a.add(s_ahead, TileBlock.ScaleBytes);
        a.mov(rdi, s_decoded);
        a.mov(s_count, s_depths);
        a.Label(ref depth);
        for (int step = 0; step < TileSteps; step++)
        {
            for (int half = 0; half < 2; half++)
            {
                int line = (2 * step + half) * Line, pairs = half * TileBytes + 2 * step * Line;
                a.prefetcht0(__[s_ahead + line]);
                _decoder.Decode(__[s_weights + line], zmm0, zmm1, pair0: zmm2, pair1: zmm1);
                a.vmovups(__zmmword_ptr[rdi + pairs], zmm2);
                a.vmovups(__zmmword_ptr[rdi + pairs + Line], zmm1);
            }
        }
        a.add(s_weights, 2 * TileSteps * Line);
        a.add(s_ahead, 2 * TileSteps * Line);
        a.add(rdi, 2 * TileBytes);
        a.dec(s_count);
        a.jne(depth);
    }

    private void PrefetchWeights()
    {
        Label line = a.CreateLabel();
        a.mov(s_count, TileBlock.BytesOf(WeightFormat.Bf16) / Line);
        a.Label(ref line);
        a.prefetcht0(__[s_ahead]);
        a.add(s_ahead, Line);
        a.dec(s_count);
        a.jne(line);
    }

    private void EmitRows()
    {
        Label two = a.CreateLabel(), one = a.CreateLabel(), end = a.CreateLabel();
        a.Label(ref two);
        a.cmp(s_rows, TileRows);
        a.jbe(one);
        EmitGroup(rowTiles: 2);
        a.ja(two);
        a.jmp(end);
        a.Label(ref one);
        EmitGroup(rowTiles: 1);
        a.Label(ref end);
    }

    /// <summary>Up to 16 or 32 rows; leaves the flags of how many are left.</summary>
    private void EmitGroup(int rowTiles)
    {
        Label depth = a.CreateLabel();
        if (_decodes) EachSum(rowTiles, (tile, _) => a.tilezero(tile));
        else LoadSums(rowTiles);
        a.mov(s_left, s_operands);
        a.mov(s_right, s_decoded);
        a.mov(s_count, s_depths);
        a.Label(ref depth);
        MultiplyTiles(rowTiles);
        if (_mx) AddScaledGroup(rowTiles);
        a.add(s_left, Line);
        a.add(s_right, 2 * TileBytes);
        a.dec(s_count);
        a.jne(depth);
        if (_mx)
        {
            a.mov(s_left, s_depths);
            a.shl(s_left, 5); // back to the scales of the first group: 32 bytes each
            a.sub(s_scales, s_left);
        }
        else
        {
            EachSum(rowTiles, (tile, address) => a.tilestored(address, tile));
            EachRow(rowTiles, _promotes ? Promote : StoreRow);
        }
        Count(rowTiles);
        a.mov(s_left, s_count);
        a.imul(s_left, s_stride);
        a.add(s_sums, s_left);
        a.add(s_operands, rowTiles * TileRows * RowBytes);
        a.sub(s_rows, s_count);
    }

    /// <summary>32 k: each row tile times both column tiles.</summary>
    private void MultiplyTiles(int rowTiles)
    {
        a.tileloadd(tmm4, __[s_left + s_line * 4]);
        if (_decodes)
        {
            a.tileloadd(tmm6, __[s_right + s_line]);
            a.tileloadd(tmm7, __[s_right + s_line + TileBytes]);
        }
        else // packed BF16 pairs alternate between the two halves of the columns
        {
            a.tileloadd(tmm6, __[s_right + s_line * 2]);
            a.tileloadd(tmm7, __[s_right + s_line * 2 + Line]);
        }
        a.tdpbf16ps(tmm0, tmm4, tmm6);
        a.tdpbf16ps(tmm1, tmm4, tmm7);
        if (rowTiles == 1) return;
        a.tileloadd(tmm5, __[s_left + s_line * 4 + TileRows * RowBytes]);
        a.tdpbf16ps(tmm2, tmm5, tmm6);
        a.tdpbf16ps(tmm3, tmm5, tmm7);
    }

    /// <summary>MXFP8: adds the products of one 32-K group times the power of two of each column, and starts again from zero.</summary>
    private void AddScaledGroup(int rowTiles)
    {
        EachSum(rowTiles, (tile, address) => a.tilestored(address, tile));
        EachSum(rowTiles, (tile, _) => a.tilezero(tile));
        LoadE8M0(zmm30, 0);
        LoadE8M0(zmm31, TileBlock.Columns / 2);
        a.add(s_scales, TileBlock.Columns);
        foreach (AssemblerRegister64 register in (AssemblerRegister64[])[s_left, s_right, s_count]) a.push(register);
        EachRow(rowTiles, AddScaled);
        foreach (AssemblerRegister64 register in (AssemblerRegister64[])[s_count, s_right, s_left]) a.pop(register);
    }

    /// <summary>0 is 2^-127 and 255 is NaN, which a shift to the exponent does not give.</summary>
    private void LoadE8M0(AssemblerRegisterZMM scales, int column)
    {
        a.vpmovzxbd(scales, __xmmword_ptr[s_scales + column]);
        a.vpslld(scales, scales, 23);
        a.vpcmpeqd(k1, scales, constants.Every(0x7F800000u));
        a.vpmaxud(scales, scales, constants.Every(0x00400000u));
        a.vpternlogd(scales.k1, scales, scales, 0xFF);
    }

    /// <summary>The chain of BF16 weights goes on where the block before left it.</summary>
    private void LoadSums(int rowTiles)
    {
        EachRow(rowTiles, () =>
        {
            a.vmovups(zmm0, __zmmword_ptr[s_right]);
            a.vmovups(zmm1, __zmmword_ptr[s_right + Line]);
            a.vmovups(__zmmword_ptr[s_left], zmm0);
            a.vmovups(__zmmword_ptr[s_left + Line], zmm1);
        });
        EachSum(rowTiles, (tile, address) => a.tileloadd(tile, address));
    }

    private void StoreRow()
    {
        a.vmovups(zmm0, __zmmword_ptr[s_left]);
        a.vmovups(zmm1, __zmmword_ptr[s_left + Line]);
        a.vmovups(__zmmword_ptr[s_right], zmm0);
        a.vmovups(__zmmword_ptr[s_right + Line], zmm1);
    }

    /// <summary>Sums += partial * (row's scale * column's scale).</summary>
    private void Promote()
    {
        a.vbroadcastss(zmm2, __dword_ptr[s_rowScales]);
        a.add(s_rowScales, s_rowScaleStep);
        a.vmulps(zmm3, zmm2, zmm31);
        a.vmulps(zmm2, zmm2, zmm30);
        AddTimes(zmm2, zmm3);
    }

    private void AddScaled() => AddTimes(zmm30, zmm31);

    private void AddTimes(AssemblerRegisterZMM factor0, AssemblerRegisterZMM factor1)
    {
        a.vmovups(zmm0, __zmmword_ptr[s_left]);
        a.vmovups(zmm1, __zmmword_ptr[s_left + Line]);
        a.vfmadd213ps(zmm0, factor0, __zmmword_ptr[s_right]);
        a.vfmadd213ps(zmm1, factor1, __zmmword_ptr[s_right + Line]);
        a.vmovups(__zmmword_ptr[s_right], zmm0);
        a.vmovups(__zmmword_ptr[s_right + Line], zmm1);
    }

    private void Count(int rowTiles)
    {
        a.mov(s_count, rowTiles * TileRows);
        a.cmp(s_count, s_rows);
        a.cmova(s_count, s_rows);
    }

    /// <summary>Code for a row, in a loop: its partial sums at the left pointer, its sums at the right one.</summary>
    private void EachRow(int rowTiles, Action emit)
    {
        Label row = a.CreateLabel();
        a.mov(s_left, s_partial);
        a.mov(s_right, s_sums);
        Count(rowTiles);
        a.Label(ref row);
        emit();
        a.add(s_left, SumRowBytes);
        a.add(s_right, s_stride);
        a.dec(s_count);
        a.jne(row);
    }

    /// <summary>Each tile of sums and where on the stack it goes: [row][32 columns].</summary>
    private static void EachSum(int rowTiles, Action<AssemblerRegisterTMM, AssemblerMemoryOperand> emit)
    {
        AssemblerRegisterTMM[] tiles = [tmm0, tmm1, tmm2, tmm3];
        for (int i = 0; i < 2 * rowTiles; i++) emit(tiles[i], __[s_partial + s_line * 2 + (i / 2 * TileRows * SumRowBytes + i % 2 * Line)]);
    }

    /// <summary>What LDTILECFG reads: palette 1, eight tiles of 16 rows of 64 bytes.</summary>
    internal static byte[] TileConfiguration =>
        [1, 0, .. new byte[14], .. Enumerable.Repeat<byte[]>([Line, 0], 8).SelectMany(size => size), .. new byte[16], .. Enumerable.Repeat((byte)TileRows, 8), .. new byte[8]];

    /// <summary>What the entry reads beside constants: decoding tables, the shape of tiles, and a scale for rows without.</summary>
    public void EmitTables()
    {
        _decoder.EmitTables();
        a.Label(ref _configuration);
        a.db(TileConfiguration);
        a.Label(ref _one);
        a.dd(1f);
    }
}
