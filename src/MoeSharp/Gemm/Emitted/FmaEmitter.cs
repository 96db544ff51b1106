using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes the FP32 microkernel for a number of rows: the same chains of fused multiply-adds as <see cref="TileKernel"/>, so the same bits. Two vectors of
/// sums per row stay in registers over a 128-K block, as many rows as the registers hold, or four where few rows leave room: one row's chains of two vectors
/// would wait for one another. A tile takes as many passes as its columns need.
/// </summary>
/// <param name="rowsAreCodes">Rows are FP8 codes: weights may be multiplied as they were decoded, and the code scale follows with the block's sums.</param>
internal sealed class FmaEmitter(Assembler a, IVectorAssembler v, WeightFormat format, bool withNaN, bool rowsAreCodes)
{
    /// <summary>Bytes of a block decoded to FP32: [k][32 columns].</summary>
    public const int PanelBytes = TileBlock.MaxDepth * PanelDepthBytes;
    private const int StepDepth = 4, GroupDepth = 32, RowBytes = sizeof(float) * TileBlock.MaxDepth, Line = 64, PanelDepthBytes = sizeof(float) * TileBlock.Columns;

    private static readonly AssemblerRegister64 s_block = rdi, s_weights = rax, s_operands = rsi, s_sums = rdx, s_rowScales = r8,
        s_scales = r9, s_ahead = r10, s_further = rcx, s_steps = r11, s_group = rbx;

    private readonly bool _promotes = format is WeightFormat.Block128 or WeightFormat.Block128PowerOfTwo, _mx = format == WeightFormat.MxFp8;
    private readonly int _stepBytes = StepDepth * TileBlock.Columns * format.ValueBytes();
    private int _rows, _vectors; // of a row
    private Source _source;
    private readonly List<Action> _rare = []; // to be written behind the function

    /// <summary>Rows whose sums fit the registers beside two vectors of weights, two of scales for MXFP8, and an operand.</summary>
    public static int MaxRows(IVectorAssembler v, WeightFormat format) => MaxRows(v.Registers - (format == WeightFormat.MxFp8 ? 2 : 0));

    /// <summary>The same with weights of a panel.</summary>
    public static int MaxPanelRows(IVectorAssembler v) => MaxRows(v.AllRegisters);

    private static int MaxRows(int registers) => Math.Min(TileKernels.MostRows, (registers - 3) / 2);

    /// <summary>Where weights come from, and go to.</summary>
    private enum Source
    {
        /// <summary>Packed values, decoded and multiplied.</summary>
        Packed,
        /// <summary>Packed values, decoded and stored.</summary>
        ToPanel,
        /// <summary>What was stored.</summary>
        Panel,
    }

    /// <summary>What a decoded code is multiplied by.</summary>
    [Flags]
    private enum Factors
    {
        None,
        CodeScale,
        Scale,
        Both = CodeScale | Scale,
    }

    /// <summary>Without a scale for each group. The code scale is one, in a register, where one is left: loads are short.</summary>
    private Factors Factor => !_promotes || rowsAreCodes ? Factors.None : Scale < v.Registers ? Factors.Scale : Factors.CodeScale;
    private int W0 => _vectors * _rows;
    private int W1 => W0 + 1;
    private int X => W0 + 2;
    private int Scale => W0 + 3;

    /// <summary>One function: void(TileBlock*), System V. Codes as they were decoded are as little as 2^-120 of their values: products with other codes are multiples of 2^-138, which FP32 has, so no bit
    /// is lost; with other rows they would be.</summary>
    public void EmitEntry(int rows) => Emit(Source.Packed, rows, 4 * v.Lanes <= TileBlock.Columns && 4 * rows + (_mx ? 7 : 3) <= v.Registers ? 4 : 2);

    /// <summary>The same where <see cref="EmitDecode"/>'s function has put the block into <see cref="TileBlock.Decoded"/>.</summary>
    public void EmitPanelEntry(int rows) => Emit(Source.Panel, rows, vectors: 2);

    /// <summary>One function: void(TileBlock*), which decodes a block to a panel.</summary>
    public void EmitDecode() => Emit(Source.ToPanel, rows: 0, vectors: 2);

    /// <summary>One function: void(BF16*, FP32*, count), a multiple of 32 values.</summary>
    public void EmitWiden()
    {
        Label step = a.CreateLabel();
        a.mov(rcx, rdx);
        a.Label(ref step);
        for (int value = 0; value < TileBlock.Columns; value += v.Lanes)
        {
            v.DecodeBf16(0, rdi, value * sizeof(ushort));
            v.Store(0, rsi, value * sizeof(float));
        }
        a.add(rdi, TileBlock.Columns * sizeof(ushort));
        a.add(rsi, TileBlock.Columns * sizeof(float));
        a.sub(rcx, TileBlock.Columns);
        a.jne(step);
        a.vzeroupper();
        a.ret();
    }

    private void Emit(Source source, int rows, int vectors)
    {
        (_source, _rows, _vectors) = (source, rows, vectors);
        a.push(rbx);
        if (source != Source.Panel) v.LoadDecoder(format);
        if (source != Source.Panel && !_mx && Factor == Factors.Scale) v.LoadCodeScale(Scale);
        for (int column = 0; column < TileBlock.Columns; column += _vectors * v.Lanes) EmitPass(column);
        a.vzeroupper();
        a.pop(rbx);
        a.ret();
        foreach (Action emit in _rare) emit();
        _rare.Clear();
    }

    /// <summary>All k for the vectors of a row.</summary>
    private void EmitPass(int column)
    {
        LoadArguments();
        if (_promotes) for (int i = 0; i < W0; i++) v.Clear(i);
        else EachSum(column, 0, _vectors, (sum, offset) => v.Load(sum, s_sums, offset));
        if (_mx && _source != Source.Panel) EmitGroups(column);
        else
        {
            Label step = a.CreateLabel();
            a.Label(ref step);
            EmitStep(column, Factor);
            a.jne(step);
        }
        if (_source == Source.ToPanel) return;
        if (_promotes) Promote(column);
        else EachSum(column, 0, _vectors, (sum, offset) => v.Store(sum, s_sums, offset));
    }

    /// <summary>MXFP8: codes are multiplied by code scale and scale at once, unless one of a group's scales is so large that the two have no product.</summary>
    private void EmitGroups(int column)
    {
        Label group = a.CreateLabel(), end = a.CreateLabel();
        a.Label(ref group);
        if (v.FoldsScales)
        {
            Label apart = a.CreateLabel();
            v.TestFoldedE8M0(s_scales, X);
            a.jne(apart);
            for (int i = 0; i < _vectors; i++) v.DecodeFoldedE8M0(Scale + i, s_scales, column + i * v.Lanes);
            EmitGroup(column, Factors.Scale, group, end);
            a.Label(ref apart);
        }
        for (int i = 0; i < _vectors; i++) v.DecodeE8M0(Scale + i, s_scales, column + i * v.Lanes, X);
        EmitGroup(column, Factors.Both, group, end);
        a.Label(ref end);
    }

    private void EmitGroup(int column, Factors factors, Label next, Label end)
    {
        Label step = a.CreateLabel();
        a.add(s_scales, TileBlock.Columns);
        a.mov(s_group, GroupDepth / StepDepth);
        a.Label(ref step);
        EmitStep(column, factors);
        a.je(end);
        a.dec(s_group);
        a.jne(step);
        a.jmp(next);
    }

    /// <summary>Four k; the zero flag says that they were the last.</summary>
    private void EmitStep(int column, Factors factors)
    {
        if (column == 0)
        {
            for (int line = 0; line < _stepBytes; line += Line)
            {
                a.prefetcht0(__[s_ahead + line]);
                if (v.AsksFurther) a.prefetcht1(__[s_ahead + s_further + line]);
            }
            a.add(s_ahead, __[s_block + TileBlock.Offsets.AheadStep]);
        }
        EmitDepths(column, factors);
        a.add(s_weights, _source == Source.Panel ? StepDepth * PanelDepthBytes : _stepBytes);
        a.add(s_operands, StepDepth * (_source == Source.ToPanel ? PanelDepthBytes : sizeof(float)));
        a.dec(s_steps);
    }

    private void EmitDepths(int column, Factors factors)
    {
        bool isDecoded = _source == Source.Panel || format == WeightFormat.Bf16;
        if (isDecoded || !v.HasRareCodes || withNaN)
        {
            EmitDepths(column, factors, anyCodes: v.HasRareCodes);
            return;
        }
        Label rare = a.CreateLabel(), next = a.CreateLabel();
        v.TestRareCodes(s_weights);
        a.jne(rare);
        EmitDepths(column, factors, anyCodes: false);
        a.Label(ref next);
        _rare.Add(() =>
        {
            a.Label(ref rare);
            EmitDepths(column, factors, anyCodes: true);
            a.jmp(next);
        });
    }

    private void EmitDepths(int column, Factors factors, bool anyCodes)
    {
        for (int k = 0; k < StepDepth; k++) EmitDepth(k, column, factors, anyCodes);
    }

    private void LoadArguments()
    {
        a.mov(s_weights, __[s_block + (_source == Source.Panel ? TileBlock.Offsets.Decoded : TileBlock.Offsets.Weights)]);
        a.mov(s_scales, __[s_block + TileBlock.Offsets.Scales]);
        a.mov(s_operands, __[s_block + (_source == Source.ToPanel ? TileBlock.Offsets.Decoded : TileBlock.Offsets.Operands)]);
        a.mov(s_sums, __[s_block + TileBlock.Offsets.Sums]);
        a.mov(s_ahead, __[s_block + TileBlock.Offsets.Ahead]);
        if (v.AsksFurther) a.mov(s_further, __[s_block + TileBlock.Offsets.Further]);
        a.mov(r11d, __dword_ptr[s_block + TileBlock.Offsets.Depth]);
        a.add(s_steps, StepDepth - 1);
        a.shr(s_steps, 2);
    }

    /// <summary>One k: two vectors of its weights, then every row's operand times them.</summary>
    private void EmitDepth(int k, int column, Factors factors, bool anyCodes)
    {
        for (int pair = 0; pair < _vectors; pair += 2)
        {
            int first = column + pair * v.Lanes, panel = k * PanelDepthBytes + first * sizeof(float);
            if (_source == Source.Panel) EachWeight((weight, i) => v.Load(weight, s_weights, panel + i * v.Lanes * sizeof(float)));
            else Decode(k, first, factors, Scale + pair, anyCodes);
            if (_source == Source.ToPanel) EachWeight((weight, i) => v.Store(weight, s_operands, panel + i * v.Lanes * sizeof(float)));
            for (int row = 0; row < _rows; row++)
            {
                v.Broadcast(X, s_operands, row * RowBytes + k * sizeof(float));
                v.MultiplyAdd(row * _vectors + pair, X, W0);
                v.MultiplyAdd(row * _vectors + pair + 1, X, W1);
            }
        }
    }

    /// <summary>Two vectors of a k's weights.</summary>
    /// <param name="scale">Scales of the first, and those of the second behind them.</param>
    /// <param name="anyCodes">Also those that are rare.</param>
    private void Decode(int k, int column, Factors factors, int scale, bool anyCodes)
    {
        if (format == WeightFormat.Bf16) v.DecodeBf16Columns(W0, s_weights, k, column);
        else if (anyCodes) v.DecodeRareE4M3(W0, s_weights, k, X);
        else v.DecodeE4M3(W0, s_weights, k, column, withNaN, X);
        EachWeight((weight, i) =>
        {
            if (factors.HasFlag(Factors.CodeScale)) v.MultiplyCodesByCodeScale(weight, X);
            if (factors.HasFlag(Factors.Scale)) v.MultiplyCodesBy(weight, _mx ? scale + i : Scale, X);
        });
    }

    private void EachWeight(Action<int, int> emit)
    {
        for (int i = 0; i < 2; i++) emit(W0 + i, i);
    }

    /// <summary>Sums += sum * (row's scale * column's scale).</summary>
    private void Promote(int column)
    {
        Label scaled = a.CreateLabel(), end = a.CreateLabel();
        a.mov(s_rowScales, __[s_block + TileBlock.Offsets.RowScales]);
        a.test(s_rowScales, s_rowScales);
        a.jne(scaled);
        Promote(column, hasRowScales: false);
        a.jmp(end);
        a.Label(ref scaled);
        Promote(column, hasRowScales: true);
        a.Label(ref end);
    }

    private void Promote(int column, bool hasRowScales)
    {
        for (int pair = 0; pair < _vectors; pair += 2)
        {
            v.Load(W0, s_scales, (column + pair * v.Lanes) * sizeof(float));
            v.Load(W1, s_scales, (column + (pair + 1) * v.Lanes) * sizeof(float));
            EachSum(column, pair, 2, (sum, offset) =>
            {
                int scale = sum % 2 == 0 ? W0 : W1;
                if (hasRowScales)
                {
                    v.Broadcast(X, s_rowScales, sum / _vectors * sizeof(float));
                    v.Multiply(X, X, scale);
                }
                if (rowsAreCodes) v.MultiplyByCodeScale(sum);
                v.ScaleAndAdd(sum, hasRowScales ? X : scale, s_sums, offset);
                v.Store(sum, s_sums, offset);
            });
        }
    }

    /// <summary>So many vectors of each row from the first on: number of the sum, and where it lies from <see cref="s_sums"/>.</summary>
    private void EachSum(int column, int first, int count, Action<int, int> emit)
    {
        for (int row = 0; row < _rows; row++)
            for (int i = first; i < first + count; i++) emit(row * _vectors + i, row * TileBlock.SumRowBytes + (column + i * v.Lanes) * sizeof(float));
    }
}
