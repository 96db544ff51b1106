namespace MoeSharp.Tests;

public class TeamTasksTests
{
    /// <summary>Shares follow one another without a gap, and each task is in the one that it is said to be in.</summary>
    [Fact]
    public void EachTaskIsInOneShare()
    {
        foreach (int nodes in (int[])[1, 2, 3, 8])
            foreach (int tasks in (int[])[1, 2, 3, 7, 8, 48, 769])
            {
                Assert.Equal((0, tasks), (TeamTasks.EndOfShare(tasks, nodes, -1), TeamTasks.EndOfShare(tasks, nodes, nodes - 1)));
                for (int task = 0; task < tasks; task++)
                {
                    int share = TeamTasks.ShareOf(task, tasks, nodes);
                    Assert.True(
                        task >= TeamTasks.EndOfShare(tasks, nodes, share - 1) && task < TeamTasks.EndOfShare(tasks, nodes, share),
                        $"task {task} of {tasks} on {nodes} nodes is said to be in share {share}");
                }
            }
        Assert.Equal(7, TeamTasks.ShareOf(int.MaxValue - 1, int.MaxValue, 8));
    }

    [Theory]
    [InlineData(0, new[] { 0, 1, 2, 3, 4 })]
    [InlineData(1, new[] { 2, 3, 4, 0, 1 })]
    public void AThreadTakesTheTasksOfItsNodeThenThoseOfOthers(int node, int[] expected)
    {
        TeamTasks.Share[] shares = [new() { Next = 0, End = 2 }, new() { Next = 2, End = 5 }];
        var tasks = new TeamTasks(shares, node);
        var taken = new List<int>();
        for (int task; (task = tasks.Take()) != TeamTasks.None;) taken.Add(task);
        Assert.Equal(expected, taken);
        Assert.Equal(TeamTasks.None, tasks.Take());
        Assert.Equal(TeamTasks.None, new TeamTasks(shares, 1 - node).Take());
    }
}
