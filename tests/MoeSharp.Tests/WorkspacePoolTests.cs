namespace MoeSharp.Tests;

public class WorkspacePoolTests
{
    /// <summary>64 bytes, and 64 more for each token.</summary>
    private static long Fill(int tokens, WorkspacePlan plan)
    {
        plan.Clear();
        plan.Add("all", ElementType.U8, tokens + 1, 64, Step.Route, Step.Combine);
        return plan.Bytes;
    }

    [Theory]
    [InlineData(1000, long.MaxValue, 1000)]
    [InlineData(1000, 64_064, 1000)]
    [InlineData(1000, 64_063, 999)]
    [InlineData(1000, 6_400, 99)]
    [InlineData(1000, 128, 1)]
    [InlineData(1000, 127, 0)]
    [InlineData(1, 127, 0)]
    public void TheLongestRunThatFitsIsFoundWithItsPlan(int tokens, long limit, int expected)
    {
        var plan = new WorkspacePlan();
        Assert.Equal(expected, WorkspacePool.Chunk(tokens, limit, Fill, plan));
        Assert.Equal(64L * (expected + 1), plan.Bytes);
        using var pool = new WorkspacePool(Fill, limit);
        Assert.Equal(64L * (expected + 1), pool.Bytes(tokens, plan));
    }
}
