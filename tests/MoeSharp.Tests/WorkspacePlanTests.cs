using CsCheck;

namespace MoeSharp.Tests;

public class WorkspacePlanTests
{
    [Fact]
    public void RowsThatOverlapInTimeDoNotOverlapInSpace()
    {
        var plan = new WorkspacePlan();
        int a = plan.Add("a", ElementType.U8, 100, 1, Step.Quantize, Step.Permute);
        int b = plan.Add("b", ElementType.U8, 100, 1, Step.Permute, Step.GateUp);
        int c = plan.Add("c", ElementType.U8, 64, 1, Step.Activate, Step.Down);
        Assert.Equal([0L, 128L, 0L], new[] { plan.Rows[a].Offset, plan.Rows[b].Offset, plan.Rows[c].Offset });
        Assert.Equal(256, plan.Bytes);
    }

    [Theory]
    [InlineData(ElementType.U8, 1)]
    [InlineData(ElementType.BF16, 2)]
    [InlineData(ElementType.I32, 4)]
    [InlineData(ElementType.F32, 4)]
    public void BytesFollowTheElementType(ElementType type, int size)
    {
        var plan = new WorkspacePlan();
        plan.Add("rows", type, 3, 50_000_000_000, Step.Route, Step.Combine);
        Assert.Equal(150_000_000_000 * size, plan.Rows[0].Bytes);
        Assert.Equal((150_000_000_000 * size + 63) / 64 * 64, plan.Bytes);
    }

    [Fact]
    public void TooManyBytesAreAnErrorAndNotAWrappedNumber()
    {
        var plan = new WorkspacePlan();
        Assert.Throws<OverflowException>(() => plan.Add("huge", ElementType.F32, long.MaxValue / 2, 2, Step.Route, Step.Combine));
    }

    [Fact]
    public void AnyPlanIsAlignedDisjointAndNoLargerThanItsParts() =>
        Gen.Select(Gen.Int[0, 5000], Gen.Int[1, 7], Gen.Int[1, 7], Gen.Int[0, 3]).Array[0, 40].Sample(buffers =>
        {
            var plan = new WorkspacePlan();
            foreach ((int length, int a, int b, int type) in buffers)
                plan.Add("buffer", (ElementType)type, length, 1, (Step)Math.Min(a, b), (Step)Math.Max(a, b));
            long sum = 0, end = 0;
            for (int i = 0; i < plan.Rows.Length; i++)
            {
                WorkspaceRow row = plan.Rows[i];
                sum += (row.Bytes + 63) / 64 * 64;
                end = Math.Max(end, row.Offset + (row.Bytes + 63) / 64 * 64);
                Assert.True(row.Offset % WorkspacePlan.Alignment == 0, $"{row}");
                for (int j = 0; j < i; j++)
                {
                    WorkspaceRow other = plan.Rows[j];
                    bool sameTime = row.First <= other.Last && other.First <= row.Last;
                    bool sameBytes = row.Offset < other.Offset + other.Bytes && other.Offset < row.Offset + row.Bytes;
                    Assert.False(sameTime && sameBytes, $"{row} and {other}");
                }
            }
            Assert.Equal(end, plan.Bytes);
            Assert.True(plan.Bytes <= sum, $"{plan.Bytes} of {sum}");
        });

    [Fact]
    public void AClearedPlanGivesTheSameAgainWithoutAllocating()
    {
        var plan = new WorkspacePlan();
        Fill(plan);
        long bytes = plan.Bytes;
        plan.Clear();
        Assert.Equal((0, 0L), (plan.Rows.Length, plan.Bytes));
        Fill(plan);
        plan.Clear();
        long before = GC.GetAllocatedBytesForCurrentThread();
        Fill(plan);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        Assert.Equal(bytes, plan.Bytes);

        static void Fill(WorkspacePlan plan)
        {
            for (int i = 0; i < 30; i++) plan.Add("buffer", ElementType.F32, i * 13, 7, (Step)(i % 5 + 1), (Step)(i % 5 + 1 + i % 3));
        }
    }
}
