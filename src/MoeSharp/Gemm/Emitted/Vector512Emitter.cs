using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>Sequences of AVX-512F instructions that several steps are made of. Where two sources are given and one is NaN, min and max return the second.</summary>
internal sealed class Vector512Emitter(Assembler a, ConstantPool constants)
{
    private const uint Infinity = 0x7F800000, Magnitude = 0x7FFFFFFF, Sign = 0x80000000, QuietNaN = 0x7FC00000;

    /// <summary>To BF16 and back, ties to even. NaN stays NaN as long as its low half is zero, as that of every NaN here is.</summary>
    public void RoundToBf16(AssemblerRegisterZMM value, AssemblerRegisterZMM temporary)
    {
        a.vpsrld(temporary, value, 16);
        a.vpandd(temporary, temporary, constants.Every(1u));
        a.vpaddd(value, value, temporary);
        a.vpaddd(value, value, constants.Every(0x7FFFu));
        a.vpandd(value, value, constants.Every(0xFFFF0000u));
    }

    /// <summary>Stores the upper halves of 16 lanes.</summary>
    public void StoreBf16(AssemblerMemoryOperand target, AssemblerRegisterZMM value)
    {
        a.vpsrld(value, value, 16);
        a.vpmovdw(target, value);
    }

    /// <summary>e^x within two units in the last place: x = n ln 2 + r, a polynomial in r, then times 2^n.</summary>
    /// <param name="x">Becomes the result.</param>
    /// <param name="most">Holds 89 in every lane: beyond, the result is infinite anyway, and Inf - Inf must not arise.</param>
    /// <param name="least">Holds -104 in every lane.</param>
    public void Exp(AssemblerRegisterZMM x, AssemblerRegisterZMM n, AssemblerRegisterZMM p, AssemblerRegisterZMM most, AssemblerRegisterZMM least)
    {
        a.vminps(x, most, x);
        a.vmaxps(x, least, x);
        a.vmulps(n, x, constants.Every(1.44269504f));
        a.vrndscaleps(n, n, 0);
        a.vfnmadd231ps(x, n, constants.Every(0.693359375f));
        a.vfnmadd231ps(x, n, constants.Every(-2.12194440e-4f));
        a.vbroadcastss(p, constants.One(1f / 5040));
        foreach (float coefficient in (float[])[1f / 720, 1f / 120, 1f / 24, 1f / 6, 0.5f, 1, 1]) a.vfmadd213ps(p, x, constants.Every(coefficient));
        a.vscalefps(x, p, n);
    }

    /// <summary>The largest magnitude in some registers, NaN not counting, in the lowest lane of <paramref name="max"/>.</summary>
    public void AbsMax(ReadOnlySpan<AssemblerRegisterZMM> values, AssemblerRegisterZMM max, AssemblerRegisterZMM temporary)
    {
        a.vpxord(max, max, max);
        foreach (AssemblerRegisterZMM value in values)
        {
            a.vpandd(temporary, value, constants.Every(Magnitude));
            a.vmaxps(max, temporary, max);
        }
        var (y, t) = (new AssemblerRegisterYMM(Ymm(max)), new AssemblerRegisterYMM(Ymm(temporary)));
        var (x, u) = (new AssemblerRegisterXMM(Xmm(max)), new AssemblerRegisterXMM(Xmm(temporary)));
        a.vextractf64x4(t, max, 1);
        a.vmaxps(y, y, t);
        a.vextractf32x4(u, y, 1);
        a.vmaxps(x, x, u);
        a.vpermilps(u, x, 0x4E);
        a.vmaxps(x, x, u);
        a.vpermilps(u, x, 0xB1);
        a.vmaxps(x, x, u);
    }

    /// <summary>E4M3(value / divisor), ties to even: four significant bits, or multiples of 2^-9 below 2^-6; at most 448; NaN stays.</summary>
    /// <param name="rounded">The result, without its sign.</param>
    public void DivideAndRoundToE4M3(
        AssemblerRegisterZMM rounded, AssemblerRegisterZMM value, AssemblerRegisterZMM divisor, AssemblerRegisterZMM magnitude, AssemblerRegisterZMM temporary)
    {
        a.vdivps(magnitude, value, divisor);
        a.vpandd(magnitude, magnitude, constants.Every(Magnitude));
        a.vpcmpgtd(k1, magnitude, constants.Every(Infinity));
        a.vpminsd(magnitude, magnitude, constants.Every(448f));
        a.vpcmpd(k2, magnitude, constants.Every(1 / 64f), 1); // less
        a.vpsrld(temporary, magnitude, 20);
        a.vpandd(temporary, temporary, constants.Every(1u));
        a.vpaddd(rounded, magnitude, temporary);
        a.vpaddd(rounded, rounded, constants.Every(0x7FFFFu));
        a.vpandd(rounded, rounded, constants.Every(0xFFF00000u));
        a.vaddps(magnitude, magnitude, constants.Every(16384f)); // leaves multiples of 2^-9
        a.vsubps(rounded.k2, magnitude, constants.Every(16384f));
        a.vpbroadcastd(rounded.k1, constants.One(QuietNaN));
    }

    /// <summary>Gives a magnitude the sign of a value.</summary>
    public void CopySign(AssemblerRegisterZMM magnitude, AssemblerRegisterZMM value) => a.vpternlogd(magnitude, value, constants.Every(Sign), 0xF8);

    private static Register Ymm(AssemblerRegisterZMM register) => Register.YMM0 + (register.Value - Register.ZMM0);
    private static Register Xmm(AssemblerRegisterZMM register) => Register.XMM0 + (register.Value - Register.ZMM0);
}
