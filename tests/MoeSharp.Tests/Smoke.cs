namespace MoeSharp.Tests;

public class Smoke
{
    [Fact]
    public void WorkspaceRowsThatOverlapInTimeDoNotOverlapInSpace()
    {
        var plan = new WorkspacePlan();
        int a = plan.Add("a", ElementType.U8, 100, 1, Step.Quantize, Step.Permute);
        int b = plan.Add("b", ElementType.U8, 100, 1, Step.Permute, Step.GateUp);
        int c = plan.Add("c", ElementType.U8, 64, 1, Step.Activate, Step.Down);
        Assert.Equal([0L, 128L, 0L], new[] { plan.Rows[a].Offset, plan.Rows[b].Offset, plan.Rows[c].Offset });
        Assert.Equal(256, plan.Bytes);
    }
}
