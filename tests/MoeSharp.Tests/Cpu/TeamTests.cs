namespace MoeSharp.Tests;

public unsafe class TeamTests
{
    private struct CountJob : ITeamJob
    {
        public int* Counts;
        public int* Threads;
        public int FailAt;

        public readonly void Execute(int task, int thread)
        {
            if (task == FailAt) throw new InvalidOperationException($"task {task} fails");
            Interlocked.Increment(ref Counts[task]);
            Interlocked.Or(ref *Threads, 1 << thread);
        }
    }

    [Theory]
    [InlineData(1, 1, 0)]
    [InlineData(2, 1, 0)]
    [InlineData(4, 1000, 0)]
    [InlineData(4, 1000, 2)]
    [InlineData(3, 7, 1)]
    public void EveryTaskRunsOnceOnAllowedThreads(int threads, int tasks, int limit)
    {
        using var team = new Team(threads);
        using var memory = new NativeBuffer(4L * (tasks + 1));
        var job = new CountJob { Counts = (int*)memory.Pointer, Threads = (int*)memory.Pointer + tasks, FailAt = -1 };
        for (int round = 1; round <= 200; round++)
        {
            if (round % 50 == 0) Thread.Sleep(5); // long enough for workers to park
            team.Run(job, tasks, limit);
            Assert.All(memory.Span<int>(0, tasks).ToArray(), count => Assert.Equal(round, count));
        }
        Assert.True(*job.Threads < 1 << (limit == 0 ? threads : limit), $"threads used: {*job.Threads:b}");
    }

    /// <summary>Counts those that came to help, by thread.</summary>
    private struct HelpedJob : IWorkerJob
    {
        public int* Done;
        public int* Helped;

        public readonly void Work(ref TeamTasks tasks, int thread)
        {
            while (tasks.Take() != TeamTasks.None) Interlocked.Increment(ref *Done);
            Interlocked.Increment(ref Helped[thread]);
        }
    }

    [Theory]
    [InlineData(1, 5, 0)]
    [InlineData(4, 40, 0)]
    [InlineData(4, 40, 2)]
    [InlineData(4, 2, 0)]
    public void AThreadWithoutATaskHelpsOnce(int threads, int tasks, int limit)
    {
        using var team = new Team(threads);
        using var memory = new NativeBuffer(4L * (threads + 1));
        var job = new HelpedJob { Done = (int*)memory.Pointer, Helped = (int*)memory.Pointer + 1 };
        for (int round = 1; round <= 100; round++)
        {
            team.RunWorkers(job, tasks, limit);
            Assert.Equal(round * tasks, *job.Done);
            Assert.Equal(round, job.Helped[0]);
            for (int t = 1; t < threads; t++) Assert.InRange(job.Helped[t], 0, limit == 0 || t < limit ? round : 0);
        }
    }

    /// <summary>Each task waits for all the others, so that every worker has to come.</summary>
    private struct MeetingJob : ITeamJob
    {
        public int* Arrived;
        public int Expected;

        public readonly void Execute(int task, int thread)
        {
            Interlocked.Increment(ref *Arrived);
            int* arrived = Arrived;
            int expected = Expected;
            Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref *arrived) >= expected, TimeSpan.FromSeconds(60)), $"task {task} on thread {thread}: {*arrived} of {expected} came");
        }
    }

    /// <summary>Whether they have parked, are about to, or still spin.</summary>
    [Fact]
    public void EveryWorkerComesAfterAPause()
    {
        const int threads = 4;
        using var team = new Team(threads);
        using var arrived = new NativeBuffer(sizeof(int));
        for (int round = 0; round < 150; round++)
        {
            *(int*)arrived.Pointer = 0;
            team.Run(new MeetingJob { Arrived = (int*)arrived.Pointer, Expected = threads }, threads);
            if (round % 3 == 0) Thread.Sleep(round % 5);
            else Thread.SpinWait(round * 200);
        }
    }

    [Fact]
    public void AnExceptionReachesTheCallerAndTheTeamGoesOn()
    {
        using var team = new Team(3);
        using var memory = new NativeBuffer(4 * 101);
        var job = new CountJob { Counts = (int*)memory.Pointer, Threads = (int*)memory.Pointer + 100, FailAt = 40 };
        for (int round = 0; round < 20; round++)
            Assert.Equal("task 40 fails", Assert.Throws<InvalidOperationException>(() => team.Run(job, 100)).Message);
        job.FailAt = -1;
        memory.Span<int>(0, 101).Clear();
        team.Run(job, 100);
        Assert.All(memory.Span<int>(0, 100).ToArray(), count => Assert.Equal(1, count));
    }

    [Fact]
    public void CallersTakeTurns()
    {
        using var team = new Team(2);
        using var memory = new NativeBuffer(4 * 65);
        var job = new CountJob { Counts = (int*)memory.Pointer, Threads = (int*)memory.Pointer + 64, FailAt = -1 };
        var callers = new Thread[4];
        for (int i = 0; i < callers.Length; i++)
        {
            callers[i] = new Thread(() => { for (int round = 0; round < 50; round++) team.Run(job, 64); });
            callers[i].Start();
        }
        foreach (Thread caller in callers) caller.Join();
        Assert.All(memory.Span<int>(0, 64).ToArray(), count => Assert.Equal(200, count));
    }

    [Fact]
    public void ADisposedTeamRefuses()
    {
        var team = new Team(2);
        team.Dispose();
        team.Dispose();
        Assert.Throws<ObjectDisposedException>(() => team.Run(new CountJob(), 1));
        Assert.Throws<ObjectDisposedException>(() => team.Run(new CountJob(), 1)); // and does not keep the turn
    }

    [Fact]
    public void DisposingWaitsForJobsAndRefusesThoseBehind()
    {
        for (int round = 0; round < 30; round++)
        {
            var team = new Team(3);
            using var memory = new NativeBuffer(4 * 65);
            var job = new CountJob { Counts = (int*)memory.Pointer, Threads = (int*)memory.Pointer + 64, FailAt = -1 };
            int finished = 0, refused = 0;
            var callers = new Thread[3];
            for (int i = 0; i < callers.Length; i++)
            {
                callers[i] = new Thread(() =>
                {
                    try
                    {
                        for (; ; Interlocked.Increment(ref finished)) team.Run(job, 64);
                    }
                    catch (ObjectDisposedException)
                    {
                        Interlocked.Increment(ref refused);
                    }
                });
                callers[i].Start();
            }
            Thread.Sleep(round % 4);
            team.Dispose();
            foreach (Thread caller in callers) caller.Join();
            Assert.Equal(callers.Length, refused);
            Assert.All(memory.Span<int>(0, 64).ToArray(), count => Assert.Equal(finished, count));
        }
    }

    [Fact]
    public void AFailureOfOneCallerIsNotAnothers()
    {
        using var team = new Team(2);
        using var memory = new NativeBuffer(4 * 65);
        var good = new CountJob { Counts = (int*)memory.Pointer, Threads = (int*)memory.Pointer + 64, FailAt = -1 };
        CountJob bad = good with { FailAt = 0 };
        int failures = 0;
        var failing = new Thread(() =>
        {
            for (int i = 0; i < 100; i++)
            {
                try
                {
                    team.Run(bad, 1);
                }
                catch (InvalidOperationException)
                {
                    failures++;
                }
            }
        });
        failing.Start();
        for (int i = 0; i < 100; i++) team.Run(good, 64);
        failing.Join();
        Assert.Equal(100, failures);
        Assert.All(memory.Span<int>(0, 64).ToArray(), count => Assert.Equal(100, count));
    }

    [Fact]
    public void ARunAllocatesNothing()
    {
        using var team = new Team(2);
        using var memory = new NativeBuffer(4 * 65);
        var job = new CountJob { Counts = (int*)memory.Pointer, Threads = (int*)memory.Pointer + 64, FailAt = -1 };
        team.Run(job, 64);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++) team.Run(job, 64);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Fact]
    public void CeilingsAreMeasured()
    {
        using var team = new Team(2);
        using var ceilings = new Ceilings(team, 64 << 20);
        ceilings.Round();
        Assert.Equal(1, ceilings.Rounds);
        Assert.InRange(ceilings.ReadGBPerS, 0.1, 10_000);
        Assert.InRange(ceilings.FmaGFlopPerS, 0.1, 1_000_000);
        Assert.Equal(CpuFeatures.Avx512Bf16, ceilings.Bf16DotGFlopPerS > 0.1);
        Assert.Equal(CpuFeatures.AmxBf16, ceilings.AmxGFlopPerS > 0.1);
    }
}
