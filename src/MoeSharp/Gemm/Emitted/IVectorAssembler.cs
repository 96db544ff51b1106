using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>The vector instructions of an FP32 microkernel, so that it is written once for several register widths. Registers go by number.</summary>
internal interface IVectorAssembler
{
    /// <summary>Of codes that become binary16 numbers: without the copy of the sign beside the sign.</summary>
    public const uint HalfMask = 0xBFFFBFFF;
    /// <summary>FP32 values per register.</summary>
    int Lanes { get; }
    /// <summary>Registers there are.</summary>
    int AllRegisters { get; }
    /// <summary>Registers less the last, which are the decoder's.</summary>
    int Registers { get; }
    /// <summary>To come before <see cref="DecodeE4M3"/> and <see cref="DecodeBf16Columns"/>: puts what they need into the decoder's registers. Loads are short, and a mask in memory would be one more for
    /// each vector.</summary>
    void LoadDecoder(WeightFormat format);
    void Clear(int register);
    void Load(int register, AssemblerRegister64 address, int offset);
    void Store(int register, AssemblerRegister64 address, int offset);
    void Broadcast(int register, AssemblerRegister64 address, int offset);
    /// <summary>target = a * b.</summary>
    void Multiply(int target, int a, int b);
    /// <summary>sum += a * b.</summary>
    void MultiplyAdd(int sum, int a, int b);
    /// <summary>sum = sum * factor + memory.</summary>
    void ScaleAndAdd(int sum, int factor, AssemblerRegister64 address, int offset);
    /// <summary>Two registers of E4M3 codes, the second behind the first, divided by a code scale: moved into place, a code, subnormal or not, is a binary16 number whose exponent has a bias greater by
    /// 8, or an FP32 number whose exponent has one greater by 120.</summary>
    /// <param name="address">The 32 columns of four k.</param>
    /// <param name="k">Which of the four. All are decoded one after the other.</param>
    /// <param name="column">First to be decoded.</param>
    void DecodeE4M3(int register, AssemblerRegister64 address, int k, int column, bool withNaN, int temporary);
    /// <summary>Whether four k may hold codes that <see cref="DecodeE4M3"/> does not decode.</summary>
    bool HasRareCodes => false;
    /// <summary>To come before the first of four k are decoded where there are rare codes: sets the zero flag where none is among them.</summary>
    void TestRareCodes(AssemblerRegister64 address) => throw new NotSupportedException();
    /// <summary>Decodes any codes, NaN among them.</summary>
    void DecodeRareE4M3(int register, AssemblerRegister64 address, int k, int temporary) => throw new NotSupportedException();
    /// <summary>Two registers of BF16 weights, as with <see cref="DecodeE4M3"/>.</summary>
    void DecodeBf16Columns(int register, AssemblerRegister64 address, int k, int column)
    {
        for (int i = 0; i < 2; i++) DecodeBf16(register + i, address, (k * TileBlock.Columns + column + i * Lanes) * sizeof(ushort));
    }
    /// <summary>register *= the code scale, for sums.</summary>
    void MultiplyByCodeScale(int register);
    /// <summary>The same for decoded codes, subnormal ones at full speed.</summary>
    void MultiplyCodesByCodeScale(int register, int temporary);
    /// <summary>The code scale in every lane.</summary>
    void LoadCodeScale(int register);
    /// <summary>The same with a scale: what <see cref="LoadCodeScale"/>, <see cref="DecodeE8M0"/> or <see cref="DecodeFoldedE8M0"/> made.</summary>
    void MultiplyCodesBy(int register, int scale, int temporary);
    /// <summary>BF16 values.</summary>
    void DecodeBf16(int register, AssemblerRegister64 address, int offset);
    /// <summary>E8M0 scales: 0 is 2^-127, 255 is NaN.</summary>
    void DecodeE8M0(int register, AssemblerRegister64 address, int offset, int temporary);
    /// <summary>Whether E8M0 scales can be multiplied by the code scale beforehand, so that codes take one multiplication.</summary>
    bool FoldsScales { get; }
    /// <summary>Sets the zero flag where <see cref="DecodeFoldedE8M0"/> may take a K group's 32 scales: the products are FP32 numbers.</summary>
    void TestFoldedE8M0(AssemblerRegister64 address, int temporary);
    /// <summary>E8M0 scales times the code scale.</summary>
    void DecodeFoldedE8M0(int register, AssemblerRegister64 address, int offset);
    /// <summary>Whether what comes after a block that is asked for is asked for too: Intel's second cache has more requests under way than its first. Zen 3 gains nothing, and loads are short there.</summary>
    bool AsksFurther => false;
    /// <summary>Writes what the decoder reads, after the last function.</summary>
    void EmitTables() { }
}

/// <summary>AVX-512 F, BW and VL.</summary>
internal class Avx512Assembler(Assembler a, ConstantPool constants) : IVectorAssembler
{
    /// <summary>Of the code scale: a way through binary16 leaves what moving bits does.</summary>
    protected const uint CodeExponent = QuadCode.Exponent;
    private const float CodeScale = 1 << (int)CodeExponent, DecodedNaN = 480 / CodeScale;

    protected static AssemblerRegisterZMM Z(int register) => new(Register.ZMM0 + register);

    public int Lanes => 16;
    public int AllRegisters => 32;
    public virtual int Registers => 31;
    public virtual void LoadDecoder(WeightFormat format) => a.vpbroadcastd(Z(Registers), constants.One(IVectorAssembler.HalfMask));
    public void Clear(int register) => a.vpxord(Z(register), Z(register), Z(register));
    public void Load(int register, AssemblerRegister64 address, int offset) => a.vmovups(Z(register), __zmmword_ptr[address + offset]);
    public void Store(int register, AssemblerRegister64 address, int offset) => a.vmovups(__zmmword_ptr[address + offset], Z(register));
    public void Broadcast(int register, AssemblerRegister64 address, int offset) => a.vbroadcastss(Z(register), __dword_ptr[address + offset]);
    public void Multiply(int target, int x, int y) => a.vmulps(Z(target), Z(x), Z(y));
    public void MultiplyAdd(int sum, int x, int y) => a.vfmadd231ps(Z(sum), Z(x), Z(y));

    public void ScaleAndAdd(int sum, int factor, AssemblerRegister64 address, int offset) =>
        a.vfmadd213ps(Z(sum), Z(factor), __zmmword_ptr[address + offset]);

    public virtual void DecodeE4M3(int register, AssemblerRegister64 address, int k, int column, bool withNaN, int temporary)
    {
        for (int i = 0; i < 2; i++) DecodeE4M3(register + i, address, k * TileBlock.Columns + column + i * Lanes, withNaN, temporary);
    }

    private void DecodeE4M3(int register, AssemblerRegister64 address, int offset, bool withNaN, int temporary)
    {
        var half = new AssemblerRegisterYMM(Register.YMM0 + register);
        a.evex.vpmovsxbw(half, __xmmword_ptr[address + offset]); // VEX cannot name registers above 15
        a.evex.vpsllw(half, half, 7);
        a.vpandd(half, half, new AssemblerRegisterYMM(Register.YMM0 + Registers));
        a.evex.vcvtph2ps(Z(register), half);
        if (!withNaN) return;
        a.vpandd(Z(temporary), Z(register), constants.Every(0x7FFFFFFFu));
        a.vpcmpeqd(k1, Z(temporary), constants.Every(DecodedNaN));
        a.vpbroadcastd(Z(register).k1, constants.One(0x7FC00000u));
    }

    public void MultiplyByCodeScale(int register) => a.vmulps(Z(register), Z(register), constants.Every(CodeScale));
    public void MultiplyCodesByCodeScale(int register, int temporary) => MultiplyByCodeScale(register);
    public void LoadCodeScale(int register) => a.vbroadcastss(Z(register), constants.One(CodeScale));
    public void MultiplyCodesBy(int register, int scale, int temporary) => Multiply(register, register, scale);
    public virtual bool FoldsScales => false;
    public bool AsksFurther => true;
    public virtual void TestFoldedE8M0(AssemblerRegister64 address, int temporary) => throw new NotSupportedException();
    public virtual void DecodeFoldedE8M0(int register, AssemblerRegister64 address, int offset) => throw new NotSupportedException();

    public void DecodeBf16(int register, AssemblerRegister64 address, int offset)
    {
        a.vpmovzxwd(Z(register), __ymmword_ptr[address + offset]);
        a.vpslld(Z(register), Z(register), 16);
    }

    public void DecodeE8M0(int register, AssemblerRegister64 address, int offset, int temporary)
    {
        a.vpmovzxbd(Z(register), __xmmword_ptr[address + offset]);
        a.vpslld(Z(register), Z(register), 23);
        a.vpcmpeqd(k1, Z(register), constants.Every(0x7F800000u));
        a.vpmaxud(Z(register), Z(register), constants.Every(0x00400000u));
        a.vpbroadcastd(Z(register).k1, constants.One(0x7FC00000u));
    }
}

/// <summary>AVX2, FMA and F16C.</summary>
/// <param name="order">How the FP8 codes that it decodes lie.</param>
internal sealed class Avx2Assembler(Assembler a, ConstantPool constants, TileOrder order = TileOrder.Plain) : IVectorAssembler
{
    private const int HalfExponent = 8, TopExponent = 120;
    private const uint TopMask = 0x87F00000; // without copies of the sign, and what lies below
    private readonly int _exponent = order == TileOrder.Woven ? TopExponent : HalfExponent;

    private static AssemblerRegisterYMM Y(int register) => new(Register.YMM0 + register);

    public int Lanes => 8;
    public int AllRegisters => 16;
    public int Registers => 15;
    public void LoadDecoder(WeightFormat format) => a.vmovups(Y(Registers), constants.Wide(order == TileOrder.Woven ? TopMask : IVectorAssembler.HalfMask));
    public void Clear(int register) => a.vxorps(Y(register), Y(register), Y(register));
    public void Load(int register, AssemblerRegister64 address, int offset) => a.vmovups(Y(register), __ymmword_ptr[address + offset]);
    public void Store(int register, AssemblerRegister64 address, int offset) => a.vmovups(__ymmword_ptr[address + offset], Y(register));
    public void Broadcast(int register, AssemblerRegister64 address, int offset) => a.vbroadcastss(Y(register), __dword_ptr[address + offset]);
    public void Multiply(int target, int x, int y) => a.vmulps(Y(target), Y(x), Y(y));
    public void MultiplyAdd(int sum, int x, int y) => a.vfmadd231ps(Y(sum), Y(x), Y(y));

    public void ScaleAndAdd(int sum, int factor, AssemblerRegister64 address, int offset) =>
        a.vfmadd213ps(Y(sum), Y(factor), __ymmword_ptr[address + offset]);

    public void DecodeE4M3(int register, AssemblerRegister64 address, int k, int column, bool withNaN, int temporary)
    {
        int offset = k * TileBlock.Columns;
        for (int i = 0; i < 2; i++)
        {
            AssemblerRegisterYMM y = Y(register + i);
            if (order == TileOrder.Woven)
            {
                a.vmovups(y, __ymmword_ptr[address + (offset + column / Lanes + i - 3)]);
                a.vpsrad(y, y, 4);
                a.vpand(y, y, Y(Registers));
            }
            else
            {
                AssemblerRegisterXMM half = new(Register.XMM0 + register + i);
                a.vpmovsxbw(half, __qword_ptr[address + (offset + column + i * Lanes)]);
                a.vpsllw(half, half, 7);
                a.vpand(half, half, new AssemblerRegisterXMM(Register.XMM0 + Registers));
                a.vcvtph2ps(y, half);
            }
            if (!withNaN) continue;
            a.vpand(Y(temporary), y, constants.Wide(0x7FFFFFFFu));
            a.vpcmpeqd(Y(temporary), Y(temporary), constants.Wide(MathF.ScaleB(480, -_exponent)));
            a.vorps(y, y, Y(temporary));
        }
    }

    private AssemblerMemoryOperand CodeScale => constants.Wide(MathF.ScaleB(1, _exponent));

    public void MultiplyByCodeScale(int register) => a.vmulps(Y(register), Y(register), CodeScale);

    // Zen takes its time for products of subnormal numbers, but not for sums of products.
    public void MultiplyCodesByCodeScale(int register, int temporary)
    {
        Clear(temporary);
        a.vfmadd132ps(Y(register), Y(temporary), CodeScale);
    }

    public void LoadCodeScale(int register) => a.vmovups(Y(register), CodeScale);

    public void MultiplyCodesBy(int register, int scale, int temporary)
    {
        if (order == TileOrder.Plain) Multiply(register, register, scale);
        else
        {
            Clear(temporary);
            a.vfmadd213ps(Y(register), Y(scale), Y(temporary));
        }
    }

    public bool FoldsScales => true;

    public void TestFoldedE8M0(AssemblerRegister64 address, int temporary)
    {
        a.vmovups(Y(temporary), __ymmword_ptr[address]);
        a.vpsubusb(Y(temporary), Y(temporary), constants.Wide((uint)(254 - _exponent) * 0x01010101));
        a.vptest(Y(temporary), Y(temporary));
    }

    public void DecodeFoldedE8M0(int register, AssemblerRegister64 address, int offset)
    {
        a.vpmovzxbd(Y(register), __qword_ptr[address + offset]);
        a.vpaddd(Y(register), Y(register), constants.Wide((uint)_exponent));
        a.vpslld(Y(register), Y(register), 23);
    }

    public void DecodeBf16(int register, AssemblerRegister64 address, int offset)
    {
        a.vpmovzxwd(Y(register), __xmmword_ptr[address + offset]);
        a.vpslld(Y(register), Y(register), 16);
    }

    public void DecodeE8M0(int register, AssemblerRegister64 address, int offset, int temporary)
    {
        a.vpmovzxbd(Y(register), __qword_ptr[address + offset]);
        a.vpslld(Y(register), Y(register), 23);
        a.vpcmpeqd(Y(temporary), Y(register), constants.Wide(0x7F800000u));
        a.vpmaxud(Y(register), Y(register), constants.Wide(0x00400000u));
        a.vorps(Y(register), Y(register), Y(temporary));
    }
}
