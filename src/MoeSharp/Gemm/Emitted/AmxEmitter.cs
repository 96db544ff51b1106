using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the AMX microkernel for up to 128 rows: one 128-K block times one tile of 32 columns. Three things go on side by side: tile products of this block,
/// whose weights the call before decoded; decoding of the next block, by vectors; scaling of what the tiles summed up 32 rows ago. 32 rows make four chains
/// of tile products (two row tiles by two column tiles), as many as hide the latency of one.
/// </summary>
/// <remarks>Tiles: 0-3 sums, 4-5 operands, 6-7 weights. A row tile reads 16 rows of operands, whatever lies after the last.</remarks>
internal sealed class AmxEmitter(Assembler a, ConstantPool constants, WeightFormat format)
{
    /// <summary>Rows of a tile. From the first of every 16, all 16 rows of operands must be readable, and the memory of all their sums be the thread's own.</summary>
    public const int TileRows = 16;
    /// <summary>Most rows of a block.</summary>
    public const int MostRows = 128;
    /// <summary>Rows between whose tile products nothing else happens to sums.</summary>
    private const int GroupRows = 2 * TileRows;
    private const int Line = 64, TileDepth = 32, RowBytes = 2 * TileBlock.MaxDepth, PairBytes = 2 * Line, DepthBytes = TileDepth / 2 * PairBytes;
    private const int SumRowBytes = 2 * Line, Steps = TileBlock.MaxDepth / TileDepth, RowsPerStep = GroupRows / Steps;

    private static readonly AssemblerRegister64 s_block = rdi, s_operands = rsi, s_sums = rdx, s_stride = rcx, s_rowScales = r8, s_groupSums = r8, s_scales = r9,
        s_ahead = r10, s_weights = r11, s_depth = r12, s_depths = r13, s_line = r15, s_rows = rbx, s_partial = rdi, s_count = rbp, s_sumsAhead = rbp;

    private static readonly AssemblerRegister64[] s_saved = [rbx, r12, r13, r14, r15];

    private readonly AmxPanel _panel = new(a, constants);
    private readonly bool _promotes = format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo, _mx = format == WeightFormat.MxFp8;
    private readonly bool _decodes = format != WeightFormat.Bf16;
    private Label _configuration = a.CreateLabel(), _ones = a.CreateLabel();

    /// <summary>void(TileBlock*): makes the tiles usable, and decodes the first block.</summary>
    public void EmitBegin()
    {
        a.push(r12);
        a.push(r14);
        a.ldtilecfg(__[_configuration]);
        if (_decodes) _panel.EmitWhole(s_block);
        a.vzeroupper();
        a.pop(r14);
        a.pop(r12);
        a.ret();
    }

    /// <summary>void(): gives the tiles up, so that the system need not save them.</summary>
    public void EmitEnd()
    {
        a.tilerelease();
        a.ret();
    }

    /// <summary>void(TileBlock*).</summary>
    public void EmitBlock()
    {
        a.push(rbp);
        a.mov(rbp, rsp);
        foreach (AssemblerRegister64 register in s_saved) a.push(register);
        a.sub(rsp, 2 * GroupRows * SumRowBytes + 2 * Line);
        a.and(rsp, -Line);
        a.mov(__[rsp + FrameAt], rbp); // rbp has work to do
        LoadArguments();
        EmitGroups();
        a.vzeroupper();
        a.mov(rbp, __[rsp + FrameAt]);
        a.lea(rsp, __[rbp - 8 * s_saved.Length]);
        foreach (AssemblerRegister64 register in s_saved.AsEnumerable().Reverse()) a.pop(register);
        a.pop(rbp);
        a.ret();
    }

    /// <summary>On the stack: rbp, the end of the sums, and partial sums, twice [32 rows][32 columns].</summary>
    private const int FrameAt = 0, SumsEndAt = 8, PartialAt = Line;

    private void LoadArguments()
    {
        a.mov(s_weights, __[s_block + (_decodes ? TileBlock.Offsets.Decoded : TileBlock.Offsets.Weights)]);
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
        if (_promotes) LoadScales();
        if (_decodes) _panel.LoadArguments(s_block);
        a.mov(s_line, Line);
    }

    private void StartFetchingSums()
    {
        a.mov(s_sumsAhead, s_stride);
        a.imul(s_sumsAhead, s_rows);
        a.add(s_sumsAhead, s_sums);
        a.mov(__[rsp + SumsEndAt], s_sumsAhead);
        a.mov(s_sumsAhead, s_sums);
    }

    private void LoadScales()
    {
        a.mov(s_rowScales, __[s_block + TileBlock.Offsets.RowScales]);
        a.lea(s_depth, __[_ones]);
        a.test(s_rowScales, s_rowScales);
        a.cmove(s_rowScales, s_depth);
        a.vmovups(zmm25, __zmmword_ptr[s_scales]);
        a.vmovups(zmm26, __zmmword_ptr[s_scales + Line]);
    }

    /// <summary>32 rows or what is left, in one or two row tiles.</summary>
    /// <param name="Number">From 0.</param>
    /// <param name="Units">Of the next block, decoded beside each 32 k.</param>
    private readonly record struct Group(int Number, int RowTiles, int Units)
    {
        public bool IsFirst => Number == 0;
    }

    /// <summary>One group that decodes everything, or as many as there are rows, of which the first two decode half each.</summary>
    private void EmitGroups()
    {
        Label many = a.CreateLabel(), end = a.CreateLabel();
        if (_promotes) StartFetchingSums();
        a.cmp(s_rows, GroupRows);
        a.ja(many);
        EmitLast(0, AmxPanel.UnitsPerDepth, end);
        a.Label(ref many);
        EmitGroup(new(0, 2, 1));
        GoToNextGroup();
        for (int number = 1; number < MostRows / GroupRows; number++)
        {
            Label more = a.CreateLabel();
            int units = number == 1 ? 1 : 0;
            bool isLast = number + 1 == MostRows / GroupRows;
            a.cmp(s_rows, GroupRows);
            if (!isLast) a.ja(more);
            EmitLast(number, units, end);
            if (isLast) break;
            a.Label(ref more);
            EmitGroup(new(number, 2, units));
            GoToNextGroup();
        }
        a.Label(ref end);
        if (_decodes) _panel.EmitRest(s_depths);
        if (!_promotes) return;
        a.mov(s_depth, s_rows);
        PromoteRows();
    }

    /// <summary>Up to 32 rows, after which there are no more; leaves the partial sums' address.</summary>
    private void EmitLast(int number, int units, Label end)
    {
        Label two = a.CreateLabel();
        a.cmp(s_rows, TileRows);
        a.ja(two);
        EmitGroup(new(number, 1, units));
        if (_promotes) a.lea(s_partial, __[rsp + PartialOf(number)]);
        a.jmp(end);
        a.Label(ref two);
        EmitGroup(new(number, 2, units));
        if (_promotes) a.lea(s_partial, __[rsp + PartialOf(number)]);
        a.jmp(end);
    }

    private void EmitGroup(Group group)
    {
        Label depth = a.CreateLabel();
        if (_decodes) EachSum(group, (tile, _) => a.tilezero(tile));
        else LoadSums(group);
        if (_promotes && !group.IsFirst) a.lea(s_partial, __[rsp + PartialOf(group.Number - 1)]);
        a.mov(s_depth, s_depths);
        a.Label(ref depth);
        MultiplyTiles(group.RowTiles);
        if (_decodes) _panel.EmitUnits(group.Units);
        else Prefetch(DepthBytes / Line / AmxPanel.UnitsPerDepth * group.Units);
        if (_promotes && Tuning.Number("MOESHARP_FETCHSUMS", 1) == 1) FetchSums();
        if (_promotes && !group.IsFirst) for (int row = 0; row < RowsPerStep; row++) Promote();
        if (_mx) AddScaledGroup(group);
        a.add(s_operands, Line);
        a.add(s_weights, DepthBytes);
        a.dec(s_depth);
        a.jne(depth);
        if (_promotes) EachSum(group, (tile, address) => a.tilestored(address, tile));
        if (_promotes && !group.IsFirst) PromoteRest();
        if (!_decodes) StoreSums(group);
    }

    private void GoToNextGroup()
    {
        a.sub(s_rows, GroupRows);
        a.mov(s_depth, s_depths);
        a.shl(s_depth, 6); // a line of operands per step
        a.sub(s_operands, s_depth);
        a.shl(s_depth, 5); // and DepthBytes of weights
        a.sub(s_weights, s_depth);
        a.add(s_operands, GroupRows * RowBytes);
        if (_mx)
        {
            a.shr(s_depth, 6); // and the scales of a 32-K group
            a.sub(s_scales, s_depth);
        }
        if (_promotes) return;
        a.mov(s_depth, s_stride);
        a.shl(s_depth, 5);
        a.add(s_sums, s_depth);
    }

    /// <summary>32 k: each row tile times both column tiles.</summary>
    private void MultiplyTiles(int rowTiles)
    {
        a.tileloadd(tmm6, __[s_weights + s_line * 2]);
        a.tileloadd(tmm4, __[s_operands + s_line * 4]);
        a.tileloadd(tmm7, __[s_weights + s_line * 2 + Line]);
        a.tdpbf16ps(tmm0, tmm4, tmm6);
        a.tdpbf16ps(tmm1, tmm4, tmm7);
        if (rowTiles == 1) return;
        a.tileloadd(tmm5, __[s_operands + s_line * 4 + TileRows * RowBytes]);
        a.tdpbf16ps(tmm2, tmm5, tmm6);
        a.tdpbf16ps(tmm3, tmm5, tmm7);
    }

    /// <summary>
    /// Sums do not stay in the first cache from one block to the next: a few rows are asked for at a time. Not beyond the last 8: other threads' memory may lie there,
    /// and every line that they write would have to be won back from here.
    /// </summary>
    private void FetchSums()
    {
        Label end = a.CreateLabel();
        a.cmp(s_sumsAhead, __[rsp + SumsEndAt]);
        a.jae(end);
        for (int row = 0; row < RowsPerStep; row++)
        {
            for (int half = 0; half < 2; half++) a.prefetchw(__[s_sumsAhead + half * Line]);
            a.add(s_sumsAhead, s_stride);
        }
        a.Label(ref end);
    }

    /// <summary>Sums += partial * (row's scale * column's scale), one row.</summary>
    private void Promote()
    {
        a.vmulps(zmm16, zmm25, __dword_bcst[s_rowScales]);
        a.vmulps(zmm17, zmm26, __dword_bcst[s_rowScales]);
        AddTimes(s_sums, zmm16, zmm17);
        a.add(s_rowScales, sizeof(float));
        a.add(s_partial, SumRowBytes);
        a.add(s_sums, s_stride);
    }

    private void AddTimes(AssemblerRegister64 sums, AssemblerRegisterZMM factor0, AssemblerRegisterZMM factor1)
    {
        a.vmovups(zmm18, __zmmword_ptr[s_partial]);
        a.vmovups(zmm19, __zmmword_ptr[s_partial + Line]);
        a.vfmadd213ps(zmm18, factor0, __zmmword_ptr[sums]);
        a.vfmadd213ps(zmm19, factor1, __zmmword_ptr[sums + Line]);
        a.vmovups(__zmmword_ptr[sums], zmm18);
        a.vmovups(__zmmword_ptr[sums + Line], zmm19);
    }

    /// <summary>The rows of a group for which a block of less than 128 k had no steps.</summary>
    private void PromoteRest()
    {
        Label end = a.CreateLabel();
        a.mov(s_depth, Steps);
        a.sub(s_depth, s_depths);
        a.je(end);
        a.shl(s_depth, 3); // RowsPerStep
        PromoteRows();
        a.Label(ref end);
    }

    /// <summary>As many rows as the depth register says.</summary>
    private void PromoteRows()
    {
        Label row = a.CreateLabel();
        a.Label(ref row);
        Promote();
        a.dec(s_depth);
        a.jne(row);
    }

    /// <summary>MXFP8: adds the products of one 32-K group times the power of two of each column, and starts again from zero.</summary>
    private void AddScaledGroup(Group group)
    {
        EachSum(group, (tile, address) => a.tilestored(address, tile));
        EachSum(group, (tile, _) => a.tilezero(tile));
        LoadE8M0(zmm25, 0);
        LoadE8M0(zmm26, TileBlock.Columns / 2);
        a.add(s_scales, TileBlock.Columns);
        EachRow(group, () => AddTimes(s_groupSums, zmm25, zmm26));
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
    private void LoadSums(Group group)
    {
        EachRow(group, () => Copy(from: s_groupSums, to: s_partial));
        EachSum(group, (tile, address) => a.tileloadd(tile, address));
    }

    private void StoreSums(Group group)
    {
        EachSum(group, (tile, address) => a.tilestored(address, tile));
        EachRow(group, () => Copy(from: s_partial, to: s_groupSums));
    }

    private void Copy(AssemblerRegister64 from, AssemblerRegister64 to)
    {
        a.vmovups(zmm18, __zmmword_ptr[from]);
        a.vmovups(zmm19, __zmmword_ptr[from + Line]);
        a.vmovups(__zmmword_ptr[to], zmm18);
        a.vmovups(__zmmword_ptr[to + Line], zmm19);
    }

    /// <summary>Code for a row of a group, in a loop: its partial sums, and its sums.</summary>
    private void EachRow(Group group, Action emit)
    {
        Label row = a.CreateLabel();
        a.lea(s_partial, __[rsp + PartialOf(group.Number)]);
        a.mov(s_groupSums, s_sums);
        a.mov(s_count, GroupRows);
        a.cmp(s_count, s_rows);
        a.cmova(s_count, s_rows);
        a.Label(ref row);
        emit();
        a.add(s_partial, SumRowBytes);
        a.add(s_groupSums, s_stride);
        a.dec(s_count);
        a.jne(row);
    }

    /// <summary>Groups take turns with two buffers.</summary>
    private static int PartialOf(int number) => PartialAt + number % 2 * GroupRows * SumRowBytes;

    /// <summary>Each tile of sums and where on the stack it goes.</summary>
    private static void EachSum(Group group, Action<AssemblerRegisterTMM, AssemblerMemoryOperand> emit)
    {
        AssemblerRegisterTMM[] tiles = [tmm0, tmm1, tmm2, tmm3];
        for (int i = 0; i < 2 * group.RowTiles; i++) emit(tiles[i], __[rsp + s_line * 2 + (PartialOf(group.Number) + i / 2 * TileRows * SumRowBytes + i % 2 * Line)]);
    }

    private void Prefetch(int lines)
    {
        for (int line = 0; line < lines; line++) Tuning.Ask(a, __[s_ahead + line * Line]);
        a.add(s_ahead, lines * Line);
    }

    /// <summary>What LDTILECFG reads: palette 1, eight tiles of 16 rows of 64 bytes.</summary>
    internal static byte[] TileConfiguration =>
        [1, 0, .. new byte[14], .. Enumerable.Repeat<byte[]>([Line, 0], 8).SelectMany(size => size), .. new byte[16], .. Enumerable.Repeat((byte)TileRows, 8), .. new byte[8]];

    /// <summary>What the entries read beside constants: decoding tables, the shape of tiles, and scales for rows without.</summary>
    public void EmitTables()
    {
        _panel.EmitTables();
        a.Label(ref _configuration);
        a.db(TileConfiguration);
        a.Label(ref _ones);
        for (int row = 0; row < MostRows; row++) a.dd(1f);
    }
}
