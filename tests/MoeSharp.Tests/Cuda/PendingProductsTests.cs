using MoeSharp.Kernels;

namespace MoeSharp.Tests;

/// <summary>The kernel compiler's search for registers that are overwritten while products read them, on assembly as NVRTC writes it.</summary>
public class PendingProductsTests
{
    private const string Products = """
        .visible .entry two(
        	wgmma.fence.sync.aligned;
        	{.reg .pred p; setp.ne.b32 p, %r9, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, %rd1, p, 1, 1, 0;}
        	wgmma.commit_group.sync.aligned;
        	{.reg .pred p; setp.ne.b32 p, %r9, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, {%r5,%r6,%r7,%r8}, %rd2, p, 1, 1, 0;}
        	wgmma.commit_group.sync.aligned;

        """;

    [Theory]
    [InlineData("ld.shared.v4.u32 \t{%r10, %r6, %r11, %r12}, [%rd3];", 0, 1)] // in the second group
    [InlineData("ld.shared.v4.u32 \t{%r10, %r6, %r11, %r12}, [%rd3];", 1, 1)]
    [InlineData("ld.shared.v4.u32 \t{%r10, %r6, %r11, %r12}, [%rd3];", 2, 0)]
    [InlineData("@%p3 mov.u32 \t%r1, %r20;", 0, 1)] // in the first
    [InlineData("@%p3 mov.u32 \t%r1, %r20;", 1, 0)]
    [InlineData("st.shared.u32 \t[%rd4], %r1;", 0, 0)]
    [InlineData("add.s32 \t%r30, %r1, %r2;", 0, 0)]
    [InlineData("mov.u32 \t%r11, %r1;", 0, 0)]
    public void WhatIsOverwrittenBeforeItsWaitIsFound(string instruction, int waits, int found)
    {
        string ptx = Products + (waits > 0 ? "\twgmma.wait_group.sync.aligned 1;\n" : "") + (waits > 1 ? "\twgmma.wait_group.sync.aligned 0;\n" : "") + "\t" + instruction + "\n";
        string[] lines = [.. PendingProducts.Overwritten(ptx)];
        Assert.True(found == lines.Length, $"{instruction} after {waits} waits: {string.Join("; ", lines)}");
        if (found > 0) Assert.Equal($"two, line {7 + waits} of its PTX: {instruction}", lines[0]);
    }

    [Fact]
    public void AnotherKernelBeginsWithNone() => Assert.Empty(PendingProducts.Overwritten(Products + ".visible .entry next(\n\tmov.u32 \t%r1, %r2;\n"));
}
