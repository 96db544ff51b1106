using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace MoeSharp;

/// <summary>
/// What the processor and the system offer to generated code. Asked of the processor itself: an ahead-of-time build's IsSupported answers for the
/// machine it was compiled for, not for the one it runs on.
/// </summary>
internal static partial class CpuFeatures
{
    private const ulong AvxState = 0b110, Avx512State = 0b1110_0110, AmxState = 0b11 << 17;

    static CpuFeatures()
    {
        if (!ExecutableMemory.IsSupported || !X86Base.IsSupported) return;
        (int leaves, int vendor, _, _) = X86Base.CpuId(0, 0);
        int basic = X86Base.CpuId(1, 0).Ecx;
        FastSubnormals = FastBf16Dots = vendor == 0x68747541; // "Auth"enticAMD
        if (leaves < 7 || !Has(basic, 27)) return;
        ulong state = EnabledState();
        (_, int b, int c, int d) = X86Base.CpuId(7, 0);
        int a1 = X86Base.CpuId(7, 1).Eax;
        bool avx = (state & AvxState) == AvxState, avx512 = avx && (state & Avx512State) == Avx512State;
        Avx2Fma = avx && Has(basic, 12) && Has(basic, 28) && Has(basic, 29) && Has(b, 5);
        bool traps = TrapsAmx && Avx2Fma && !avx512; // the handler knows what is generated here
        Avx512 = traps || (avx512 && Has(b, 16) && Has(b, 30) && Has(b, 31));
        Avx512Vbmi = traps || (Avx512 && Has(c, 1));
        Avx512Bf16 = traps || (Avx512 && Has(a1, 5));
        AmxBf16 = Avx512Vbmi && (TrapsAmx || ((state & AmxState) == AmxState && Has(d, 24) && Has(d, 22) && RequestTiles()));
    }

    /// <summary>256-bit integers, fused multiply-adds and binary16.</summary>
    public static bool Avx2Fma { get; }
    /// <summary>Multiply-adds take subnormal factors at full speed: AMD's cores (measured on Zen 3), while Intel's stop for some 135 cycles (measured on Emerald Rapids).</summary>
    public static bool FastSubnormals { get; }
    /// <summary>BF16 dot products run at the rate of FP32 multiply-adds: AMD's cores (measured on Zen 5), while Intel's take four times as long (measured on Emerald Rapids), so that FP32 is twice as fast.</summary>
    public static bool FastBf16Dots { get; }
    /// <summary>512-bit vectors: F, BW and VL.</summary>
    public static bool Avx512 { get; }
    /// <summary>512-bit look-ups of bytes.</summary>
    public static bool Avx512Vbmi { get; }
    /// <summary>512-bit BF16 dot products.</summary>
    public static bool Avx512Bf16 { get; }
    /// <summary>Tiles of BF16, and the system's permission to use them.</summary>
    public static bool AmxBf16 { get; }

    /// <summary>Tests carry out tile instructions in a trap handler on machines that have none.</summary>
    private static bool TrapsAmx => Environment.GetEnvironmentVariable("MOESHARP_TEST_AMX") == "trap";

    private static bool Has(int register, int bit) => (register >> bit & 1) != 0;

    /// <summary>XGETBV: which registers the system saves; there is no intrinsic for it.</summary>
    private static unsafe ulong EnabledState()
    {
        // xor ecx, ecx; xgetbv; shl rdx, 32; or rax, rdx; ret
        using var code = new ExecutableMemory([0x31, 0xC9, 0x0F, 0x01, 0xD0, 0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0, 0xC3]);
        return ((delegate* unmanaged<ulong>)code.Pointer)();
    }

    /// <summary>Linux gives a process the 8 KiB of tile state only when asked.</summary>
    private static bool RequestTiles()
    {
        const long archPrctl = 158, requestPermission = 0x1023, tileData = 18;
        return SystemCall(archPrctl, requestPermission, tileData) == 0;
    }

    [LibraryImport("libc", EntryPoint = "syscall")]
    private static partial long SystemCall(long number, long first, long second);
}
