using BenchmarkDotNet.Attributes;

namespace MoeSharp.Benchmarks;

/// <summary>What it costs to hand a job to the team and to get it back: a layer does so four times a call.</summary>
public unsafe class ForkJoin
{
    private Team _team = null!;

    /// <summary>Of the team, the caller's included.</summary>
    [ParamsSource(nameof(ThreadCounts))]
    public int Threads { get; set; }

    /// <summary>One, two, and all processors.</summary>
    public static IEnumerable<int> ThreadCounts => new[] { 1, 2, Environment.ProcessorCount }.Distinct().Order();

    [GlobalSetup]
    public void Start() => _team = new Team(Threads);

    [GlobalCleanup]
    public void End() => _team.Dispose();

    /// <summary>A task per thread, so short that the workers may find it done.</summary>
    [Benchmark]
    public void Empty() => _team.Run(new SpinJob(), Threads);

    /// <summary>A task per thread of about 20 microseconds.</summary>
    [Benchmark]
    public void Short() => _team.Run(new SpinJob { Steps = 20_000 }, Threads);

    private struct SpinJob : ITeamJob
    {
        public int Steps;

        public readonly void Execute(int task, int thread)
        {
            long x = 1;
            for (int i = 0; i < Steps; i++) x = x * 6364136223846793005 + 1; // a chain, 4 cycles a step
            if (x == 0) throw new InvalidOperationException("A chain of odd numbers became even.");
        }
    }
}
