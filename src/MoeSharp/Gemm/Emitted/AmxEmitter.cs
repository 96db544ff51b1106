using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static MoeSharp.AmxRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the AMX microkernel for up to 128 rows: one 128-K block times one tile of 32 columns. Three things go on side by side: tile products of this block,
/// whose weights the call before decoded; decoding of the next block, by vectors, beside the last 32 rows; scaling of what the tiles summed up 32 rows ago. 32 rows make four chains
/// of tile products (two row tiles by two column tiles), as many as hide the latency of one.
/// </summary>
/// <remarks>Tiles: 0-3 sums, 4-5 operands, 6-7 weights. Up to 16 rows have tiles of so many; more are read 16 at a time, whatever lies after the last.</remarks>
internal sealed class AmxEmitter(Assembler a, ConstantPool constants, AmxPartials partials, WeightFormat format, bool withNaN)
{
    /// <summary>Rows of a tile: so many rows of operands must be readable from the first of every 16.</summary>
    public const int TileRows = 16;
    /// <summary>Most rows of a block.</summary>
    public const int MostRows = 128;
    /// <summary>Steps of a whole block: 32 k each.</summary>
    public const int Steps = TileBlock.MaxDepth / TileDepth;
    private const int LineBytes = 64, TileDepth = 32, RowBytes = 2 * TileBlock.MaxDepth, PairBytes = 2 * LineBytes, DepthBytes = TileDepth / 2 * PairBytes;

    private readonly AmxPanel _panel = new(a, constants, withNaN);
    private readonly AmxPromotion _promotion = new(a, partials);
    private readonly bool _promotes = format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo, _mx = format == WeightFormat.MxFp8;
    private readonly bool _decodes = format != WeightFormat.Bf16;
    private static readonly AssemblerRegister64[] s_begins = [rbp, r12, r14]; // what decoding needs of the caller's
    private Label _configurations = a.CreateLabel();

    /// <summary>void(TileBlock*): decodes the first block.</summary>
    public void EmitBegin()
    {
        foreach (AssemblerRegister64 register in s_begins) a.push(register);
        if (_decodes) _panel.EmitWhole(Block);
        a.vzeroupper();
        foreach (AssemblerRegister64 register in s_begins.AsEnumerable().Reverse()) a.pop(register);
        a.ret();
        _panel.EmitRare();
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
        partials.Reserve();
        LoadArguments();
        EmitGroups();
        a.vzeroupper();
        partials.Release();
        a.ret();
        _panel.EmitRare();
    }

    private void LoadArguments()
    {
        a.mov(Weights, __[Block + (_decodes ? TileBlock.Offsets.Decoded : TileBlock.Offsets.Weights)]);
        a.mov(Scales, __[Block + TileBlock.Offsets.Scales]);
        a.mov(Operands, __[Block + TileBlock.Offsets.Operands]);
        a.mov(Sums, __[Block + TileBlock.Offsets.Sums]);
        _panel.LoadAhead(Block, TileBlock.ScaleBytesOf(format));
        a.mov(ebx, __dword_ptr[Block + TileBlock.Offsets.RowCount]);
        Configure();
        a.mov(r13d, __dword_ptr[Block + TileBlock.Offsets.Depth]);
        a.add(r13d, TileDepth - 1);
        a.shr(r13d, 5);
        if (_promotes) _promotion.LoadScales();
        if (_decodes)
        {
            _panel.LoadArguments(Block);
            partials.LoadCodeScale(constants);
        }
        a.mov(Line, LineBytes);
    }

    /// <summary>Makes the tiles what the rows need, where they are not.</summary>
    private void Configure()
    {
        Label done = a.CreateLabel();
        a.mov(eax, TileRows);
        a.cmp(ebx, TileRows);
        a.cmovb(eax, ebx);
        a.cmp(eax, __dword_ptr[Block + TileBlock.Offsets.TileRows]);
        a.je(done);
        a.mov(__dword_ptr[Block + TileBlock.Offsets.TileRows], eax);
        a.shl(eax, 6); // LineBytes
        a.lea(Depth, __[_configurations]);
        a.ldtilecfg(__[Depth + rax - LineBytes]);
        a.Label(ref done);
    }

    /// <summary>As many groups as there are rows.</summary>
    private void EmitGroups()
    {
        const int last = MostRows / AmxGroup.Rows - 1;
        Label end = a.CreateLabel();
        for (int number = 0; number < last; number++)
        {
            Label more = a.CreateLabel();
            a.cmp(RowsLeft, AmxGroup.Rows);
            a.ja(more);
            EmitLast(number, end);
            a.Label(ref more);
            EmitGroup(new(number, 2, IsLast: false));
            GoToNextGroup();
        }
        EmitLast(last, end);
        a.Label(ref end);
        if (_decodes) _panel.EmitRest(Depths);
        if (!_promotes) return;
        a.mov(Depth, RowsLeft);
        _promotion.PromoteRows();
    }

    /// <summary>Up to 32 rows, after which there are no more.</summary>
    private void EmitLast(int number, Label end)
    {
        Label two = a.CreateLabel();
        a.cmp(RowsLeft, TileRows);
        a.ja(two);
        EmitGroup(new(number, 1, IsLast: true));
        a.jmp(end);
        a.Label(ref two);
        EmitGroup(new(number, 2, IsLast: true));
        a.jmp(end);
    }

    private void EmitGroup(AmxGroup group)
    {
        Label depth = a.CreateLabel();
        if (_decodes) partials.Clear(group);
        else LoadSums(group);
        a.mov(Depth, Depths);
        a.Label(ref depth);
        MultiplyTiles(group.RowTiles);
        if (_decodes && group.IsLast) _panel.EmitStep();
        Prefetch(group);
        if (_promotes && !group.IsFirst) _promotion.PromoteSome();
        if (_mx) AddScaledGroup(group);
        a.add(Operands, LineBytes);
        a.add(Weights, DepthBytes);
        a.dec(Depth);
        a.jne(depth);
        if (_promotes && !group.IsFirst) _promotion.PromoteRest();
        if (_promotes)
        {
            partials.Store(group);
            partials.GoToFirst();
        }
        if (!_decodes) StoreSums(group);
    }

    private void GoToNextGroup()
    {
        a.sub(RowsLeft, AmxGroup.Rows);
        a.mov(Depth, Depths);
        a.shl(Depth, 6); // a line of operands per step
        a.sub(Operands, Depth);
        a.shl(Depth, 5); // and DepthBytes of weights
        a.sub(Weights, Depth);
        a.add(Operands, AmxGroup.Rows * RowBytes);
        if (_mx)
        {
            a.shr(Depth, 6); // and the scales of a 32-K group
            a.sub(Scales, Depth);
        }
        if (!_promotes) a.add(Sums, AmxGroup.Rows * TileBlock.SumRowBytes);
    }

    /// <summary>32 k: each row tile times both column tiles.</summary>
    private void MultiplyTiles(int rowTiles)
    {
        a.tileloadd(tmm6, __[Weights + Line * 2]);
        a.tileloadd(tmm4, __[Operands + Line * 4]);
        a.tileloadd(tmm7, __[Weights + Line * 2 + LineBytes]);
        a.tdpbf16ps(tmm0, tmm4, tmm6);
        a.tdpbf16ps(tmm1, tmm4, tmm7);
        if (rowTiles == 1) return;
        a.tileloadd(tmm5, __[Operands + Line * 4 + TileRows * RowBytes]);
        a.tdpbf16ps(tmm2, tmm5, tmm6);
        a.tdpbf16ps(tmm3, tmm5, tmm7);
    }

    /// <summary>MXFP8: adds the products of one 32-K group times the power of two of each column, and starts again from zero.</summary>
    private void AddScaledGroup(AmxGroup group)
    {
        partials.Store(group);
        partials.Clear(group);
        LoadE8M0(zmm25, 0);
        LoadE8M0(zmm26, TileBlock.Columns / 2);
        a.add(Scales, TileBlock.Columns);
        partials.EachRow(group, () => partials.AddTimes(RowSums, zmm25, zmm26));
    }

    /// <summary>0 is 2^-127 and 255 is NaN, which a shift to the exponent does not give.</summary>
    private void LoadE8M0(AssemblerRegisterZMM scales, int column)
    {
        a.vpmovzxbd(scales, __xmmword_ptr[Scales + column]);
        a.vpslld(scales, scales, 23);
        a.vpcmpeqd(k1, scales, constants.Every(0x7F800000u));
        a.vpmaxud(scales, scales, constants.Every(0x00400000u));
        a.vpternlogd(scales.k1, scales, scales, 0xFF);
    }

    /// <summary>The chain of BF16 weights goes on where the block before left it.</summary>
    private void LoadSums(AmxGroup group)
    {
        partials.EachRow(group, () => partials.Copy(from: RowSums, to: Partial));
        partials.Load(group);
    }

    private void StoreSums(AmxGroup group)
    {
        partials.Store(group);
        partials.EachRow(group, () => partials.Copy(from: Partial, to: RowSums));
    }

    /// <summary>A step's share of the lines that come next: the first two groups ask for half of them each, where there are two.</summary>
    private void Prefetch(AmxGroup group)
    {
        int lines = TileDepth * TileBlock.Columns * format.ValueBytes() / LineBytes;
        if (group.Number < 2) _panel.Prefetch(group.IsFirst && group.IsLast ? lines : lines / 2);
    }

    /// <summary>What LDTILECFG reads: palette 1, tiles of 64 bytes a row; those of sums and operands have so many rows, those of weights 16.</summary>
    internal static byte[] TileConfiguration(int rows) =>
    [
        1, .. new byte[15],
        .. Enumerable.Repeat<byte[]>([LineBytes, 0], 8).SelectMany(size => size), .. new byte[16],
        .. Enumerable.Repeat((byte)rows, 6), TileRows, TileRows, .. new byte[8],
    ];

    /// <summary>What the entries read beside constants: decoding tables, shapes of tiles, and scales for rows without.</summary>
    public void EmitTables()
    {
        _panel.EmitTables();
        a.Label(ref _configurations);
        for (int rows = 1; rows <= TileRows; rows++) a.db(TileConfiguration(rows));
        _promotion.EmitTables();
    }
}
