namespace MoeSharp.Tests;

public sealed unsafe class TopologyTests : IDisposable
{
    private readonly DirectoryInfo _root = Directory.CreateTempSubdirectory("moesharp-nodes-");

    public void Dispose() => _root.Delete(recursive: true);

    [Fact]
    public void NodesAreReadAsTheSystemWritesThem()
    {
        Node("node1", "2-3,8\n");
        Node("node0", "0-1\n");
        Node("node10", "9");
        Node("node2", "\n"); // memory without processors
        Node("nodes", "77");
        Directory.CreateDirectory(Path.Combine(_root.FullName, "node3"));
        Topology topology = Topology.Read(_root.FullName, allowed: null);
        Assert.Equal([[0, 1], [2, 3, 8], [9]], topology.Nodes);
        Assert.InRange(topology.CurrentNode(), 0, 2);
    }

    [Fact]
    public void OnlyAllowedProcessorsCount()
    {
        Node("node0", "0-3");
        Node("node1", "4-7");
        Node("node2", "8");
        Assert.Equal([[1], [4, 5]], Topology.Read(_root.FullName, new HashSet<int> { 1, 4, 5, 99 }).Nodes);
    }

    [Fact]
    public void WithoutAnswersThereIsOneNode()
    {
        Assert.Equal([[]], Topology.Read(Path.Combine(_root.FullName, "missing"), null).Nodes);
        Assert.Equal([[]], Topology.Read(_root.FullName, null).Nodes);
        Assert.False(Topology.Read(_root.FullName, null).Pin(0));
    }

    [Fact]
    public void ThisMachineHasTheProcessorsOfItsAffinityMask()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && Directory.Exists("/sys/devices/system/node/node0"), "this system tells nothing about nodes");
        Assert.Equal(Topology.Allowed()!.Order(), Topology.Machine.Nodes.SelectMany(n => n).Order());
    }

    [Fact]
    public void WorkersStayOnTheirNodesAndDoEveryTaskOnce()
    {
        using Team team = TwoNodes(threads: 4, out int[] processors);
        const int tasks = 1000;
        using var memory = new NativeBuffer(4 * (tasks + 4));
        var job = new PlaceJob { Counts = (int*)memory.Pointer, Processors = (int*)memory.Pointer + tasks };
        for (int round = 1; round <= 50; round++)
        {
            if (round % 10 == 0) Thread.Sleep(5); // long enough for workers to park
            team.Run(job, tasks, limit: round % 5);
            Assert.All(memory.Span<int>(0, tasks).ToArray(), count => Assert.Equal(round, count));
        }
        int[] seen = memory.Span<int>(4 * tasks, 4).ToArray(); // bit 0, 1: the first, second processor
        int[] expected = [3, 1, 2, 2];
        for (int thread = 1; thread < 4; thread++)
            Assert.True((seen[thread] & ~expected[thread]) == 0, $"thread {thread} ran on {seen[thread]:b} of processors {processors[0]} and {processors[1]}");
    }

    [Fact]
    public void AFailureEndsAllShares()
    {
        using Team team = TwoNodes(threads: 3, out _);
        for (int round = 0; round < 20; round++) Assert.Throws<InvalidTimeZoneException>(() => team.Run(new FailingJob(), 100));
    }

    [Fact]
    public void PlacedMemoryKeepsItsContents()
    {
        using Team team = TwoNodes(threads: 2, out _);
        using var memory = new NativeBuffer(10_000_019);
        var random = new Random(1);
        random.NextBytes(new Span<byte>(memory.Pointer, (int)memory.Bytes));
        byte[] before = new Span<byte>(memory.Pointer, (int)memory.Bytes).ToArray();
        team.Place(memory.Pointer, memory.Bytes, parts: 3);
        Assert.True(before.AsSpan().SequenceEqual(new Span<byte>(memory.Pointer, (int)memory.Bytes)), "placing memory changed it");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(37)]
    public void ALayerComputesTheSameOnTwoNodes(int tokens)
    {
        var random = new RandomExperts(experts: 7, topK: 3, hidden: 384, intermediate: 320, WeightFormat.Block128);
        using ExpertWeights weights = random.Weights();
        using var backend = new CpuBackend(3);
        using Team team = TwoNodes(threads: 3, out _);
        using var one = new FusedExperts(new ExpertsOptions { TopK = 3 }, weights, backend);
        using var two = new FusedExperts(new ExpertsOptions { TopK = 3 }, weights, new GivenTeam(team));
        (BFloat16[] hidden, int[] ids, float[] routed) = random.Call(tokens);
        var expected = new BFloat16[hidden.Length];
        var actual = new BFloat16[hidden.Length];
        one.Forward(hidden, ids, routed, expected);
        two.Forward(hidden, ids, routed, actual);
        Assert.Contains(expected, value => value.ToSingle() != 0);
        Assert.Equal(expected, actual);
    }

    private Team TwoNodes(int threads, out int[] processors)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "threads are pinned on Linux only");
        processors = [.. Topology.Allowed()!.Order().Take(2)];
        Assert.SkipUnless(processors.Length == 2, "two processors are needed");
        Node("node0", $"{processors[0]}");
        Node("node1", $"{processors[1]}");
        var team = new Team(threads, Topology.Read(_root.FullName, null));
        Assert.Equal(2, team.Nodes);
        return team;
    }

    private void Node(string name, string processors)
    {
        Directory.CreateDirectory(Path.Combine(_root.FullName, name));
        File.WriteAllText(Path.Combine(_root.FullName, name, "cpulist"), processors);
    }

    private sealed class GivenTeam(Team team) : IExpertsBackend
    {
        public string Name => "cpu on a team";
        public Support SupportsDevice() => Support.Yes;
        public Support SupportsFormat(WeightFormat format, ActivationFormat activations) => Support.Yes;
        public Support SupportsActivation(Activation activation) => Support.Yes;
        public IPreparedExperts Prepare(ExpertsShape shape, ExpertWeights weights, bool allowNaNWeights) =>
            new CpuExperts(shape, weights, team, GemmKernels.All.First(kernel => kernel.IsSupported), withNaN: false);
    }

    private struct PlaceJob : ITeamJob
    {
        public int* Counts;
        public int* Processors;

        public readonly void Execute(int task, int thread)
        {
            Interlocked.Increment(ref Counts[task]);
            if (thread == 0) return; // the caller's own thread goes where it likes
            int[] allowed = [.. Topology.Allowed()!.Order()];
            int first = Topology.Machine.Nodes[0][0];
            foreach (int processor in allowed) Interlocked.Or(ref Processors[thread], processor == first ? 1 : 2);
        }
    }

    private struct FailingJob : ITeamJob
    {
        public readonly void Execute(int task, int thread)
        {
            if (task is 10 or 80) throw new InvalidTimeZoneException();
        }
    }
}
