using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>Independent chains of FP32 multiply-adds in registers, generated: what an ahead-of-time build made of C# would tell the peak of an old processor.</summary>
internal static unsafe class FmaBurn
{
    private const int Chains = 12; // more than latency times throughput of any core known, and with an operand fewer than sixteen registers
    private static readonly Lazy<ExecutableMemory> s_code = new(Generate);

    /// <summary>Operations of one step: a product and a sum for each lane.</summary>
    public static int StepOperations => Chains * Lanes * 2;

    /// <summary>void(steps).</summary>
    public static delegate* unmanaged<long, void> Code => (delegate* unmanaged<long, void>)s_code.Value.Pointer;

    private static int Lanes => CpuFeatures.Avx512 ? 16 : 8;

    private static ExecutableMemory Generate()
    {
        var a = new Assembler(64);
        var constants = new ConstantPool(a);
        IVectorAssembler v = CpuFeatures.Avx512 ? new Avx512Assembler(a, constants) : new Avx2Assembler(a, constants);
        Label step = a.CreateLabel(), one = a.CreateLabel();
        a.lea(rax, __[one]);
        v.Broadcast(Chains, rax, 0);
        for (int sum = 0; sum < Chains; sum++) v.Clear(sum);
        a.Label(ref step);
        for (int sum = 0; sum < Chains; sum++) v.MultiplyAdd(sum, Chains, Chains);
        a.dec(rdi);
        a.jne(step);
        a.vzeroupper();
        a.ret();
        a.Label(ref one);
        a.dd(1f);
        using var bytes = new MemoryStream();
        a.Assemble(new StreamCodeWriter(bytes), 0);
        return new ExecutableMemory(bytes.GetBuffer().AsSpan(0, (int)bytes.Length));
    }
}
