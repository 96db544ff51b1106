using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>Independent chains of BF16 dot products in registers: what <see cref="Ceilings"/> calls the peak of the machine.</summary>
internal static unsafe class Bf16DotBurn
{
    /// <summary>Chains: more than latency times throughput of any core known.</summary>
    public const int Chains = 16;
    /// <summary>Operations of one step: 16 columns, pairs, a product and a sum each.</summary>
    public const int StepOperations = Chains * 16 * 2 * 2;

    private static readonly Lazy<ExecutableMemory> s_code = new(Generate);

    /// <summary>void(steps).</summary>
    public static delegate* unmanaged<long, void> Code => (delegate* unmanaged<long, void>)s_code.Value.Pointer;

    private static ExecutableMemory Generate()
    {
        var a = new Assembler(64);
        AssemblerRegisterZMM[] sums = [zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14, zmm15];
        Label step = a.CreateLabel();
        a.mov(eax, 0x3F803F80); // two ones
        a.vpbroadcastd(zmm16, eax);
        foreach (AssemblerRegisterZMM sum in sums) a.vpxord(sum, sum, sum);
        a.Label(ref step);
        foreach (AssemblerRegisterZMM sum in sums) a.vdpbf16ps(sum, zmm16, zmm16);
        a.dec(rdi);
        a.jne(step);
        a.vzeroupper();
        a.ret();
        using var bytes = new MemoryStream();
        a.Assemble(new StreamCodeWriter(bytes), 0);
        return new ExecutableMemory(bytes.GetBuffer().AsSpan(0, (int)bytes.Length));
    }
}
