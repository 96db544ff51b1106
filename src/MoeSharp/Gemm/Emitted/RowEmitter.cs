using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// Writes what happens to rows outside the GEMMs, for AVX-512F. A row of 128 values lives in zmm0-7 from its activation to its operands; zmm8-13 are
/// temporary, zmm24-27 hold limits.
/// </summary>
internal sealed class RowEmitter
{
    private const int Block = TileBlock.MaxDepth, Lanes = 16, Vectors = Block / Lanes;
    private static readonly AssemblerRegisterZMM[] s_row = [zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7];
    private static readonly AssemblerRegisterZMM s_most = zmm24, s_least = zmm25, s_limit = zmm26, s_negativeLimit = zmm27;
    private static readonly AssemblerRegister64 s_arguments = rdi, s_operands = rsi, s_scales = r8, s_count = r9, s_tile = r10, s_tileBytes = r11;

    private readonly Assembler _a;
    private readonly ConstantPool _constants;
    private readonly Vector512Emitter _vectors;
    private readonly ExpertsShape _shape;
    private readonly bool _hasBiases;

    public RowEmitter(Assembler a, ConstantPool constants, ExpertsShape shape, bool hasBiases)
    {
        _a = a;
        _constants = constants;
        _vectors = new(a, constants);
        _shape = shape;
        _hasBiases = hasBiases;
    }

    /// <summary>void(QuantizeBlocks*).</summary>
    public void EmitQuantize()
    {
        _a.mov(rax, __[s_arguments + QuantizeBlocks.HiddenAt]);
        _a.mov(s_operands, __[s_arguments + QuantizeBlocks.OperandsAt]);
        _a.mov(s_scales, __[s_arguments + QuantizeBlocks.ScalesAt]);
        _a.mov(s_count, __[s_arguments + QuantizeBlocks.BlocksAt]);
        EmitLoop(() =>
        {
            for (int v = 0; v < Vectors; v++)
            {
                _a.vpmovzxwd(s_row[v], __ymmword_ptr[rax + v * Lanes * 2]);
                _a.vpslld(s_row[v], s_row[v], 16);
            }
            EmitStore(QuantizationRule.Input);
            _a.add(rax, Block * 2);
        });
    }

    /// <summary>void(ActivateRows*).</summary>
    public void EmitActivate()
    {
        _a.mov(rax, __[s_arguments + ActivateRows.SumsAt]);
        _a.mov(rcx, __[s_arguments + ActivateRows.GateBiasAt]);
        _a.mov(rdx, __[s_arguments + ActivateRows.UpBiasAt]);
        _a.mov(s_operands, __[s_arguments + ActivateRows.OperandsAt]);
        _a.mov(s_scales, __[s_arguments + ActivateRows.ScalesAt]);
        _a.mov(s_count, __[s_arguments + ActivateRows.RowsAt]);
        _a.imul(s_tileBytes, s_count, TileBlock.SumRowBytes);
        _a.vbroadcastss(s_most, _constants.One(89f));
        _a.vbroadcastss(s_least, _constants.One(-104f));
        if (_shape.Activation.Limit is { } limit)
        {
            _a.vbroadcastss(s_limit, _constants.One(limit));
            _a.vbroadcastss(s_negativeLimit, _constants.One(-limit));
        }
        EmitLoop(() =>
        {
            _a.mov(s_tile, rax);
            for (int v = 0; v < Vectors; v++) EmitActivated(v);
            EmitStore(QuantizationRule.Activation);
            _a.add(rax, TileBlock.SumRowBytes);
        });
    }

    private void EmitLoop(Action body)
    {
        Label row = _a.CreateLabel();
        _a.Label(ref row);
        body();
        _a.add(s_operands, TileBlock.StoredRowBytes);
        _a.add(s_scales, sizeof(float));
        _a.dec(s_count);
        _a.jne(row);
        _a.vzeroupper();
        _a.ret();
    }

    /// <summary>act(gate) * up of the 16 columns of a tile; <see cref="GatedActivationVector"/> is the same in C#.</summary>
    private void EmitActivated(int v)
    {
        AssemblerRegisterZMM g = zmm8, u = zmm9, result = s_row[v];
        Activation activation = _shape.Activation;
        _a.vmovups(g, __zmmword_ptr[s_tile]);
        _a.vmovups(u, __zmmword_ptr[s_tile + Lanes * sizeof(float)]);
        _a.add(s_tile, s_tileBytes);
        if (_hasBiases)
        {
            _a.vaddps(g, g, __zmmword_ptr[rcx + v * Lanes * sizeof(float)]);
            _a.vaddps(u, u, __zmmword_ptr[rdx + v * Lanes * sizeof(float)]);
        }
        _vectors.RoundToBf16(g, zmm10);
        _vectors.RoundToBf16(u, zmm10);
        bool staged = _shape.Rounding == RoundingMode.Bf16Staged, clamps = activation.Limit is not null;
        if (activation.Kind == ActivationKind.SwigluStep)
        {
            EmitGate(g, result, activation with { Alpha = 1 });
            _a.vminps(result, s_limit, result);
            Clamp(u);
            _a.vmulps(result, result, u);
            _vectors.RoundToBf16(result, zmm10);
            return;
        }
        if (clamps)
        {
            _a.vminps(g, s_limit, g);
            Clamp(u);
            if (staged) _vectors.RoundToBf16(g, zmm10);
            if (staged) _vectors.RoundToBf16(u, zmm10);
        }
        EmitGate(g, result, activation);
        if (staged) _vectors.RoundToBf16(result, zmm10);
        if (activation.Beta != 0) _a.vaddps(u, u, _constants.Every(activation.Beta));
        if (staged && activation.Beta != 0) _vectors.RoundToBf16(u, zmm10);
        _a.vmulps(result, result, u);
        _vectors.RoundToBf16(result, zmm10);
    }

    private void Clamp(AssemblerRegisterZMM value)
    {
        _a.vminps(value, s_limit, value);
        _a.vmaxps(value, s_negativeLimit, value);
    }

    /// <summary>g / (1 + e^-z), z being alpha g, or for GELU twice the argument of its tangent.</summary>
    private void EmitGate(AssemblerRegisterZMM g, AssemblerRegisterZMM result, Activation activation)
    {
        AssemblerRegisterZMM x = zmm10, n = zmm11, p = zmm12;
        if (activation.Kind == ActivationKind.GeluTanh)
        {
            _a.vmulps(x, g, _constants.Every(0.044715f));
            _a.vmulps(x, x, g);
            _a.vmulps(x, x, g);
            _a.vaddps(x, x, g);
            _a.vmulps(x, x, _constants.Every(-2f * 0.7978845608f));
        }
        else _a.vmulps(x, g, _constants.Every(-activation.Alpha));
        _vectors.Exp(x, n, p, s_most, s_least);
        _a.vaddps(x, x, _constants.Every(1f));
        _a.vdivps(result, g, x);
    }

    /// <summary>The row in zmm0-7, quantized where activations are, to operands and scales.</summary>
    private void EmitStore(QuantizationRule rule)
    {
        if (_shape.Group == 0)
        {
            for (int v = 0; v < Vectors; v++) StoreOperands(v, s_row[v]);
            return;
        }
        int vectors = _shape.Group / Lanes;
        for (int first = 0; first < Vectors; first += vectors)
        {
            ReadOnlySpan<AssemblerRegisterZMM> group = s_row.AsSpan(first, vectors);
            _vectors.AbsMax(group, zmm8, zmm9);
            if (_shape.Format == WeightFormat.MxFp8) EmitMxScale();
            else EmitScale(rule);
            _a.vbroadcastss(zmm8, xmm8);
            for (int v = first; v < first + vectors; v++)
            {
                _vectors.DivideAndRoundToE4M3(zmm9, s_row[v], zmm8, zmm10, zmm11);
                if (_shape.Format == WeightFormat.MxFp8) _a.vmulps(zmm9, zmm9, zmm8);
                _vectors.CopySign(zmm9, s_row[v]);
                StoreOperands(v, zmm9);
            }
        }
    }

    private void StoreOperands(int v, AssemblerRegisterZMM values) => _vectors.StoreBf16(__ymmword_ptr[s_operands + v * Lanes * sizeof(ushort)], values);

    /// <summary>xmm8: absmax to scale, stored too. <see cref="ActivationQuantizer.Scale"/> is the same in C#.</summary>
    private void EmitScale(QuantizationRule rule)
    {
        _a.vmaxss(xmm8, xmm8, _constants.One(ActivationQuantizer.Floor));
        if (rule == QuantizationRule.Input) _a.vdivss(xmm8, xmm8, _constants.One(448f));
        else _a.vmulss(xmm8, xmm8, _constants.One(1f / 448f));
        if (_shape.PowerOfTwoScales)
        {
            if (rule == QuantizationRule.Input) _a.vmaxss(xmm8, xmm8, _constants.One(ActivationQuantizer.Floor));
            RoundUpToPowerOfTwo();
        }
        _a.vmovss(__dword_ptr[s_scales], xmm8);
    }

    /// <summary>xmm8: absmax to 2^e, which is both divisor and factor; Inf, by which finite values become 0 * Inf = NaN; 2^-127 at least.</summary>
    private void EmitMxScale()
    {
        _a.vdivss(xmm8, xmm8, _constants.One(448f));
        _a.vpcmpud(k1, zmm8, _constants.Every(0x00400001u), 1); // less
        RoundUpToPowerOfTwo();
        _a.vpbroadcastd(zmm8.k1, _constants.One(0x00400000u)); // as zmm: the assembler would encode a masked xmm one without its mask
    }

    private void RoundUpToPowerOfTwo()
    {
        _a.vpaddd(xmm8, xmm8, _constants.Every(0x7FFFFFu));
        _a.vpandd(xmm8, xmm8, _constants.Every(0x7F800000u));
    }
}
