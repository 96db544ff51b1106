using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>Independent chains of AMX tile products in registers: what <see cref="Ceilings"/> calls the peak of a machine with AMX.</summary>
internal static unsafe class AmxBurn
{
    /// <summary>Operations of one step: six tiles of 16 x 16 sums, 32 products and sums each.</summary>
    public const long StepOperations = 6 * 16 * 16 * 32 * 2;

    private const int Line = 64;
    private static readonly Lazy<ExecutableMemory> s_code = new(Generate);

    /// <summary>void(steps).</summary>
    public static delegate* unmanaged<long, void> Code => (delegate* unmanaged<long, void>)s_code.Value.Pointer;

    private static ExecutableMemory Generate()
    {
        var a = new Assembler(64);
        AssemblerRegisterTMM[] sums = [tmm0, tmm1, tmm2, tmm3, tmm4, tmm5]; // six chains: more than latency times throughput
        Label step = a.CreateLabel(), configuration = a.CreateLabel(), ones = a.CreateLabel();
        a.ldtilecfg(__[configuration]);
        a.lea(rcx, __[ones]);
        a.xor(eax, eax); // sixteen rows, all of them the same line
        a.tileloadd(tmm6, __[rcx + rax]);
        a.tileloadd(tmm7, __[rcx + rax]);
        foreach (AssemblerRegisterTMM sum in sums) a.tilezero(sum);
        a.Label(ref step);
        foreach (AssemblerRegisterTMM sum in sums) a.tdpbf16ps(sum, tmm6, tmm7);
        a.dec(rdi);
        a.jne(step);
        a.tilerelease();
        a.ret();
        a.Label(ref configuration);
        a.db(AmxEmitter.TileConfiguration(AmxEmitter.TileRows));
        a.Label(ref ones);
        for (int i = 0; i < Line / sizeof(uint); i++) a.dd(0x3F803F80u); // BF16 ones
        using var bytes = new MemoryStream();
        a.Assemble(new StreamCodeWriter(bytes), 0);
        return new ExecutableMemory(bytes.GetBuffer().AsSpan(0, (int)bytes.Length));
    }
}
