using System.Collections.Concurrent;

namespace MoeSharp.Tests;

public unsafe class ThreadLimitTests
{
    private const int Threads = 4, Tokens = 21;
    private static readonly ConcurrentDictionary<int, bool> s_seen = [];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void NoMoreThreadsThanAskedForWork(int limit)
    {
        Run(new WitnessKernel(), runs: 30, limit);
        Assert.InRange(s_seen.Count, 1, limit);
    }

    [Fact]
    public void WithoutALimitOthersWorkToo()
    {
        for (int attempt = 0; attempt < 100 && s_seen.Count < 2; attempt++) Run(new WitnessKernel(), runs: 10, limit: 0);
        Assert.InRange(s_seen.Count, 2, Threads);
    }

    [Fact]
    public void ALimitChangesNoBit()
    {
        BFloat16[] expected = Run(GemmKernels.All.First(kernel => kernel.IsSupported), runs: 1, limit: 0);
        for (int limit = 1; limit <= Threads + 1; limit++) Assert.Equal(expected, Run(GemmKernels.All.First(kernel => kernel.IsSupported), runs: 1, limit));
        Assert.Contains(expected, value => value.ToSingle() != 0);
    }

    [Fact]
    public void ALimitBelowZeroIsRefused() =>
        Assert.Contains("MaxThreads is -1", Assert.Throws<ArgumentException>(() => Run(new WitnessKernel(), runs: 1, limit: -1)).Message, StringComparison.Ordinal);

    private static BFloat16[] Run(IGemmKernel kernel, int runs, int limit)
    {
        s_seen.Clear();
        var random = new RandomExperts(experts: 5, topK: 2, hidden: 384, intermediate: 320, WeightFormat.Block128);
        using ExpertWeights weights = random.Weights();
        using var backend = new CpuBackend(Threads, kernel);
        using var experts = new FusedExperts(new() { TopK = 2 }, weights, backend);
        (BFloat16[] hidden, int[] ids, float[] routed) = random.Call(Tokens);
        var output = new BFloat16[hidden.Length];
        for (int i = 0; i < runs; i++)
            experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = routed, MaxThreads = limit }, output);
        return output;
    }

    /// <summary>Computes nothing and notes who calls.</summary>
    private sealed class WitnessKernel : IGemmKernel
    {
        public string Name => "witness";
        public string Reason => "tests need to know";
        public bool IsSupported => true;
        public Operand Operand => Operand.F32;
        public TileOrder Order => TileOrder.Plain;

        public TileKernels For(WeightFormat format, bool withNaN)
        {
            var kernels = new TileKernels(format, Operand, TileKernels.MostRows, isUnmanaged: false);
            delegate*<TileBlock*, void> entry = &Note;
            for (int rows = 1; rows <= TileKernels.MostRows; rows++) kernels.Set(rows, (nint)entry);
            return kernels;
        }

        private static void Note(TileBlock* block)
        {
            s_seen.TryAdd(Environment.CurrentManagedThreadId, true);
            Thread.SpinWait(200);
        }
    }
}
