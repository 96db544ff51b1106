using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MoeSharp;

/// <summary>What general registers hold in the AMX microkernel, which several emitters write. Two names of a register are never needed at the same time.</summary>
internal static class AmxRegisters
{
    public static readonly AssemblerRegister64 Block = rdi, Operands = rsi, Sums = rdx, RowScales = r8, Scales = r9, Ahead = r10, Further = rcx, Weights = r11, Line = r15;
    /// <summary>Rows from the current group on.</summary>
    public static readonly AssemblerRegister64 RowsLeft = rbx;
    /// <summary>Steps of 32 k of the block, and those that are left; or rows left to promote.</summary>
    public static readonly AssemblerRegister64 Depths = r13, Depth = r12;
    /// <summary>A row of partial sums.</summary>
    public static readonly AssemblerRegister64 Partial = rdi;
    /// <summary>The count of a loop over rows, and the sums of its row.</summary>
    public static readonly AssemblerRegister64 Count = rbp, RowSums = r8;

    /// <summary>Those used here that the caller wants back, beside rbp.</summary>
    public static readonly AssemblerRegister64[] Saved = [rbx, r12, r13, r14, r15];
}
