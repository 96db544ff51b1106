using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>
/// The loops of <see cref="RowDots"/>, generated: an ahead-of-time build without AVX2 and FMA would carry out each multiply-add in software. Sixteen
/// lanes, so the same bits as there.
/// </summary>
internal static unsafe class GeneratedDots
{
    private const int Lanes = 16, Bf16Step = Lanes * sizeof(ushort), Fp32Step = Lanes * sizeof(float);
    private static readonly Lazy<GeneratedCode> s_code = new(Generate);

    /// <summary>Whether the loops can be generated here.</summary>
    public static bool IsSupported => CpuFeatures.Avx2Fma;

    /// <summary>Whether they are faster than what was compiled.</summary>
    public static bool IsPreferred { get; } = IsSupported && !Fma.IsSupported;

    /// <summary>Two tokens by two rows of a matrix.</summary>
    public static delegate* unmanaged<Arguments*, void> Dot2x2(bool bf16Weights) => (delegate* unmanaged<Arguments*, void>)s_code.Value[bf16Weights ? 0 : 1];

    /// <summary>Sums += Hidden0 * Weight.</summary>
    public static delegate* unmanaged<Arguments*, void> MultiplyAdd => (delegate* unmanaged<Arguments*, void>)s_code.Value[2];

    /// <summary>What the loops work on.</summary>
    [StructLayout(LayoutKind.Explicit)]
    public struct Arguments
    {
        internal const int Hidden0At = 0, Hidden1At = 8, Row0At = 16, Row1At = 24, SumsAt = 32, StepsAt = 40, WeightAt = 48;

        /// <summary>[16 * steps].</summary>
        [FieldOffset(Hidden0At)] public BFloat16* Hidden0;
        /// <summary>[16 * steps].</summary>
        [FieldOffset(Hidden1At)] public BFloat16* Hidden1;
        /// <summary>[16 * steps].</summary>
        [FieldOffset(Row0At)] public void* Row0;
        /// <summary>[16 * steps].</summary>
        [FieldOffset(Row1At)] public void* Row1;
        /// <summary>[2 tokens, 2 rows, 16 lanes], written; or [16 * steps], added to.</summary>
        [FieldOffset(SumsAt)] public float* Sums;
        /// <summary>At least 1.</summary>
        [FieldOffset(StepsAt)] public nint Steps;
        /// <summary>One factor.</summary>
        [FieldOffset(WeightAt)] public float Weight;
    }

    private static GeneratedCode Generate()
    {
        var code = new GeneratedCode.Builder();
        Assembler a = code.Assembler;
        IVectorAssembler v = CpuFeatures.Avx512 ? new Avx512Assembler(a, code.Constants) : new Avx2Assembler(a, code.Constants);
        code.Add(() => EmitDot2x2(a, v, bf16Weights: true));
        code.Add(() => EmitDot2x2(a, v, bf16Weights: false));
        code.Add(() => EmitMultiplyAdd(a, v));
        return code.Load();
    }

    private static void EmitDot2x2(Assembler a, IVectorAssembler v, bool bf16Weights)
    {
        int parts = Lanes / v.Lanes, x0 = 4 * parts, x1 = x0 + 1, y0 = x0 + 2, y1 = x0 + 3;
        Label step = a.CreateLabel();
        a.mov(rax, __[rdi + Arguments.Hidden0At]);
        a.mov(rcx, __[rdi + Arguments.Hidden1At]);
        a.mov(rdx, __[rdi + Arguments.Row0At]);
        a.mov(rsi, __[rdi + Arguments.Row1At]);
        a.mov(r9, __[rdi + Arguments.StepsAt]);
        for (int i = 0; i < 4 * parts; i++) v.Clear(i);
        a.Label(ref step);
        for (int part = 0; part < parts; part++)
        {
            int half = part * v.Lanes * sizeof(ushort), whole = part * v.Lanes * sizeof(float);
            v.DecodeBf16(x0, rax, half);
            v.DecodeBf16(x1, rcx, half);
            if (bf16Weights) v.DecodeBf16(y0, rdx, half);
            else v.Load(y0, rdx, whole);
            if (bf16Weights) v.DecodeBf16(y1, rsi, half);
            else v.Load(y1, rsi, whole);
            v.MultiplyAdd(part, x0, y0);
            v.MultiplyAdd(parts + part, x0, y1);
            v.MultiplyAdd(2 * parts + part, x1, y0);
            v.MultiplyAdd(3 * parts + part, x1, y1);
        }
        a.add(rax, Bf16Step);
        a.add(rcx, Bf16Step);
        a.add(rdx, bf16Weights ? Bf16Step : Fp32Step);
        a.add(rsi, bf16Weights ? Bf16Step : Fp32Step);
        a.dec(r9);
        a.jne(step);
        a.mov(rax, __[rdi + Arguments.SumsAt]);
        for (int i = 0; i < 4 * parts; i++) v.Store(i, rax, i * v.Lanes * sizeof(float));
        a.vzeroupper();
        a.ret();
    }

    private static void EmitMultiplyAdd(Assembler a, IVectorAssembler v)
    {
        Label step = a.CreateLabel();
        a.mov(rax, __[rdi + Arguments.Hidden0At]);
        a.mov(rcx, __[rdi + Arguments.SumsAt]);
        a.mov(r9, __[rdi + Arguments.StepsAt]);
        v.Broadcast(0, rdi, Arguments.WeightAt);
        a.Label(ref step);
        for (int part = 0; part < Lanes / v.Lanes; part++)
        {
            v.DecodeBf16(1, rax, part * v.Lanes * sizeof(ushort));
            v.Load(2, rcx, part * v.Lanes * sizeof(float));
            v.MultiplyAdd(2, 1, 0);
            v.Store(2, rcx, part * v.Lanes * sizeof(float));
        }
        a.add(rax, Bf16Step);
        a.add(rcx, Fp32Step);
        a.dec(r9);
        a.jne(step);
        a.vzeroupper();
        a.ret();
    }
}
