namespace MoeSharp.Tests;

public unsafe class SharedItemsTests
{
    /// <summary>The owner goes from task to task; others take what they can get, also with the number of a task that has ended.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    [InlineData(100)]
    public void EachItemIsTakenOnceAndTheOwnerWaitsForAll(int count)
    {
        const int tasks = 300, helpers = 3;
        using var memory = new NativeBuffer(sizeof(SharedItems) + 4L * tasks * count);
        var shared = (SharedItems*)memory.Pointer;
        int* taken = (int*)(memory.Pointer + sizeof(SharedItems));
        bool isOver = false;
        var threads = new Thread[helpers];
        for (int t = 0; t < helpers; t++)
        {
            threads[t] = new Thread(() =>
            {
                while (!Volatile.Read(ref isOver))
                {
                    int task = shared->Task;
                    if (task >= 0) TakeAll(task);
                }
            });
            threads[t].Start();
        }
        try
        {
            for (int task = 0; task < tasks; task++)
            {
                shared->Begin(task);
                TakeAll(task);
                shared->Wait(count);
                for (int item = 0; item < count; item++) Assert.True(Volatile.Read(ref taken[task * count + item]) == 1, $"item {item} of task {task}: taken {taken[task * count + item]} times when all were said to be done");
            }
        }
        finally
        {
            Volatile.Write(ref isOver, true);
            foreach (Thread thread in threads) thread.Join();
        }
        for (int i = 0; i < tasks * count; i++) Assert.True(taken[i] == 1, $"item {i % count} of task {i / count}: taken {taken[i]} times");

        void TakeAll(int task)
        {
            for (int item; (item = shared->Take(task, count)) != SharedItems.None;)
            {
                Interlocked.Increment(ref taken[task * count + item]);
                shared->End();
            }
        }
    }

    [Fact]
    public void ATaskThatEndedAndOneThatNeverBeganHaveNoItems()
    {
        SharedItems shared = default;
        Assert.Equal(-1, shared.Task);
        Assert.Equal(SharedItems.None, shared.Take(0, 5));
        shared.Begin(0);
        Assert.Equal([0, 1, SharedItems.None, SharedItems.None], [shared.Take(0, 2), shared.Take(0, 2), shared.Take(0, 2), shared.Take(0, 2)]);
        shared.Begin(int.MaxValue - 1);
        Assert.Equal(int.MaxValue - 1, shared.Task);
        Assert.Equal([SharedItems.None, 0], [shared.Take(0, 2), shared.Take(int.MaxValue - 1, 2)]);
        shared.Begin(3);
        shared.Wait(0);
        Assert.Equal(SharedItems.None, shared.Take(3, 0));
        shared.Begin(4, taken: 1);
        Assert.Equal([1, 2, SharedItems.None], [shared.Take(4, 3), shared.Take(4, 3), shared.Take(4, 3)]);
    }
}
