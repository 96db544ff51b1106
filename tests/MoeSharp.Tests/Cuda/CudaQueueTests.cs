using System.Diagnostics;

namespace MoeSharp.Tests;

/// <summary>Device pointers and streams of the caller's, on a GPU or the emulator.</summary>
[Trait("Category", "Cuda")]
public class CudaQueueTests(ITestOutputHelper log)
{
    private const int Experts = 4, TopK = 2, H = 256, I = 128;

    [Fact]
    public void PointersGiveTheBitsOfSpans()
    {
        using var at = new Case(tokens: 21);
        int[] ids = RandomLayer.Ids(21, TopK, Experts, 3, dropped: 0.2);
        at.Caller.Route(ids);
        at.Queue.Forward(at.Layer, at.Caller.Call);
        Same(at.Caller.WithSpans(ids), at.Caller.Output<BFloat16>(), "BF16");
        at.Queue.Forward(at.Layer, at.Caller.CallF32);
        Same(at.Caller.WithSpansF32(ids), at.Caller.Output<float>(), "FP32");
    }

    [Fact]
    public void AnExpertMapPicksTheLocalExperts()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, Experts, H, I, 1);
        using var rank = new FusedExperts(new() { TopK = TopK, GlobalExperts = 12 }, weights, backend);
        using var whole = new FusedExperts(new() { TopK = TopK }, weights, backend);
        using var caller = new Caller(backend, rank, 9);
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        int[] ids = RandomLayer.Ids(9, TopK, 12, 3), map = [.. Enumerable.Range(0, 12).Select(g => g % 3 == 1 ? g / 3 : -1)];
        using var deviceMap = new DeviceBuffer(backend.Context(), 48, "map");
        deviceMap.Upload<int>(map, caller.Stream);
        caller.Route(ids);
        Assert.Contains("expert_map", Assert.Throws<ArgumentException>(() => queue.Forward(rank, caller.Call)).Message);
        queue.Forward(rank, caller.Call with { ExpertMap = (nint)deviceMap.Address });
        using var local = new Caller(backend, whole, 9);
        Same(local.WithSpans([.. ids.Select(id => map[id])]), caller.Output<BFloat16>(), "mapped");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    [InlineData(21)]
    public void ChunksGiveTheSameBits(int chunk)
    {
        using var at = new Case(tokens: 21);
        int[] ids = RandomLayer.Ids(21, TopK, Experts, 3);
        long bytes = at.Queue.WorkspaceBytes(at.Layer, chunk);
        using var memory = new DeviceBuffer(at.Backend.Context(), bytes, "workspace");
        using var given = new CudaQueue(at.Backend, at.Caller.Stream.Raw, (nint)memory.Address, bytes);
        Assert.Equal(bytes, given.WorkspaceBytes(at.Layer, 21));
        at.Caller.Route(ids);
        given.Forward(at.Layer, at.Caller.Call);
        BFloat16[] expected = at.Caller.WithSpans(ids);
        Same(expected, at.Caller.Output<BFloat16>(), $"workspace of {chunk} tokens");
        using var bounded = new FusedExperts(new() { TopK = TopK, MaxWorkspaceBytes = bytes }, at.Weights, at.Backend);
        using var queue = new CudaQueue(at.Backend, at.Caller.Stream.Raw);
        Assert.Equal(bytes, queue.WorkspaceBytes(bounded, 21));
        queue.Forward(bounded, at.Caller.Call);
        Same(expected, at.Caller.Output<BFloat16>(), $"budget of {chunk} tokens");
    }

    [Fact]
    public void ABudgetAlsoBoundsCallsWithSpans()
    {
        using var at = new Case(tokens: 21);
        int[] ids = RandomLayer.Ids(21, TopK, Experts, 3);
        ExpertsShape shape = at.Layer.Shape;
        long bytes = DeviceCall.HostBytes(shape, 5, new());
        using var bounded = new FusedExperts(new() { TopK = TopK, MaxWorkspaceBytes = bytes }, at.Weights, at.Backend);
        using var caller = new Caller(at.Backend, bounded, 21);
        Same(at.Caller.WithSpans(ids), caller.WithSpans(ids), "5 tokens at a time");
        using var tooSmall = new FusedExperts(new() { TopK = TopK, MaxWorkspaceBytes = 4096 }, at.Weights, at.Backend);
        using var refused = new Caller(at.Backend, tooSmall, 1);
        Assert.Matches("^MaxWorkspaceBytes is 4,096 but one token alone needs .* on the GPU; raise it.$", Assert.Throws<ArgumentException>(() => refused.WithSpans([0, 1])).Message);
    }

    [Fact]
    public void AWorkspaceBelowOneTokenIsRefused()
    {
        using var at = new Case(tokens: 3);
        using var memory = new DeviceBuffer(at.Backend.Context(), 4096, "workspace");
        using var given = new CudaQueue(at.Backend, at.Caller.Stream.Raw, (nint)memory.Address, 4096);
        Assert.Matches("^The workspace has 4,096 bytes but one token needs [0-9,]+; WorkspaceBytes tells",
            Assert.Throws<InvalidOperationException>(() => given.Forward(at.Layer, at.Caller.Call)).Message);
    }

    /// <summary>Captured once with ordinary routing; replayed with all tokens at one expert, without any expert, with gaps.</summary>
    [Fact]
    public void ACapturedCallReplaysUnderOtherRoutings()
    {
        using var at = new Case(tokens: 70); // more than 64 rows for one expert: the other orientation
        at.Queue.Reserve(at.Layer, 70);
        at.Caller.Route(RandomLayer.Ids(70, TopK, Experts, 3));
        using CudaGraph graph = at.Caller.Stream.Capture(() => at.Queue.Forward(at.Layer, at.Caller.Call));
        Assert.Equal(3, graph.Nodes);
        foreach ((string name, int[] ids) in new (string, int[])[]
        {
            ("other experts", RandomLayer.Ids(70, TopK, Experts, 9)), ("all to one", [.. Enumerable.Range(0, 140).Select(i => i % 2 == 0 ? 3 : -1)]),
            ("none", [.. Enumerable.Repeat(-1, 140)]), ("gaps", RandomLayer.Ids(70, TopK, Experts, 5, dropped: 0.5)),
        })
        {
            at.Caller.Route(ids);
            graph.Launch(at.Caller.Stream);
            Same(at.Caller.WithSpans(ids), at.Caller.Output<BFloat16>(), name);
        }
    }

    /// <summary>Chunks, and a workspace that a later call makes grow: the graph keeps the one it has.</summary>
    [Fact]
    public void ACapturedCallKeepsItsWorkspace()
    {
        using var at = new Case(tokens: 6);
        using var larger = new Caller(at.Backend, at.Layer, 40);
        int[] ids = RandomLayer.Ids(6, TopK, Experts, 3), more = RandomLayer.Ids(40, TopK, Experts, 3);
        Assert.Contains("call Reserve before the capture", Capture(at, throws: true)!.Message);
        at.Queue.Reserve(at.Layer, 6);
        CudaGraph? graph = null;
        using (graph = at.Caller.Stream.Capture(() => at.Queue.Forward(at.Layer, at.Caller.Call)))
        {
            larger.Route(more);
            using var second = new CudaQueue(at.Backend, larger.Stream.Raw);
            at.Queue.Reserve(at.Layer, 40);
            second.Forward(at.Layer, larger.Call);
            at.Caller.Route(ids);
            graph.Launch(at.Caller.Stream);
            Same(at.Caller.WithSpans(ids), at.Caller.Output<BFloat16>(), "graph");
            Same(larger.WithSpans(more), larger.Output<BFloat16>(), "larger call");
        }
    }

    /// <summary>A layer with more to hand on makes the queue's memory for one launch grow: the graph keeps what it has captured, and both layers take turns in theirs.</summary>
    [Fact]
    public void ACapturedOneLaunchKeepsItsHandoff()
    {
        using var at = new Case(tokens: 3);
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, Experts, 2 * H, 2 * I, 1);
        using var large = new FusedExperts(new() { TopK = TopK }, weights, at.Backend);
        using var caller = new Caller(at.Backend, large, 5);
        int[] ids = RandomLayer.Ids(3, TopK, Experts, 3), more = RandomLayer.Ids(5, TopK, Experts, 3);
        at.Queue.Reserve(at.Layer, 3);
        using CudaGraph graph = at.Caller.Stream.Capture(() => at.Queue.Forward(at.Layer, at.Caller.Call));
        Assert.Equal(1, graph.Nodes);
        at.Caller.Route(ids);
        caller.Route(more);
        for (int round = 0; round < 3; round++)
        {
            at.Caller.Blank();
            caller.Blank();
            caller.Stream.Synchronize();
            at.Queue.Forward(large, caller.Call);
            graph.Launch(at.Caller.Stream);
            Same(at.Caller.WithSpans(ids), at.Caller.Output<BFloat16>(), $"graph, round {round}");
            Same(caller.WithSpans(more), caller.Output<BFloat16>(), $"larger layer, round {round}");
            at.Queue.Forward(at.Layer, at.Caller.Call); // in the larger memory, where the larger layer's words were
            Same(at.Caller.WithSpans(ids), at.Caller.Output<BFloat16>(), $"call, round {round}");
        }
    }

    /// <summary>With memory of the caller's a capture needs nothing before; one launch does.</summary>
    [Fact]
    public void ACaptureInGivenMemoryTakesOneLaunchOnceItIsReserved()
    {
        using var at = new Case(tokens: 2);
        long bytes = at.Queue.WorkspaceBytes(at.Layer, 2);
        using var memory = new DeviceBuffer(at.Backend.Context(), bytes, "workspace");
        using var given = new CudaQueue(at.Backend, at.Caller.Stream.Raw, (nint)memory.Address, bytes);
        int[] ids = RandomLayer.Ids(2, TopK, Experts, 3);
        at.Caller.Route(ids);
        foreach (int launches in new[] { 3, 1 })
        {
            using CudaGraph graph = at.Caller.Stream.Capture(() => given.Forward(at.Layer, at.Caller.Call));
            Assert.Equal(launches, graph.Nodes);
            at.Caller.Blank();
            graph.Launch(at.Caller.Stream);
            Same(at.Caller.WithSpans(ids), at.Caller.Output<BFloat16>(), $"{launches} launches");
            given.Reserve(at.Layer, 2);
        }
    }

    [Fact]
    public unsafe void TheCurrentContextStaysAsItWas()
    {
        using var at = new Case(tokens: 3);
        nint none = 1, inside = 0;
        at.Queue.Forward(at.Layer, at.Caller.Call);
        Native.Check(Native.cuCtxGetCurrent(&none));
        Assert.Equal(0, none);
        using (at.Backend.Context().Enter())
        {
            nint before = 0;
            Native.Check(Native.cuCtxGetCurrent(&before));
            at.Queue.Forward(at.Layer, at.Caller.Call);
            Native.Check(Native.cuCtxGetCurrent(&inside));
            Assert.Equal(before, inside);
        }
        Assert.Throws<ArgumentException>(() => at.Queue.Forward(at.Layer, at.Caller.Call with { Hidden = 8 }));
        Native.Check(Native.cuCtxGetCurrent(&none));
        Assert.Equal(0, none);
    }

    [Fact]
    public unsafe void PointersThatCannotBeAreRefusedByName()
    {
        using var at = new Case(tokens: 3);
        using var pinned = new PinnedBuffer(at.Backend.Context(), 1 << 16);
        CudaCall call = at.Caller.Call;
        fixed (byte* host = GC.AllocateUninitializedArray<byte>(1 << 16, pinned: true))
            foreach ((string words, CudaCall bad) in new[]
            {
                ("hidden_states is a null pointer; give its address on GPU 0.", call with { Hidden = 0 }),
                ("topk_ids is a null pointer; give its address on GPU 0.", call with { TopkIds = 0 }),
                ($"hidden_states starts at 0x{call.Hidden + 2:x}, which is not a multiple of 16 bytes; align it.", call with { Hidden = call.Hidden + 2 }),
                ($"topk_weights starts at 0x{call.TopkWeights + 1:x}, which is not a multiple of 4 bytes; align it.", call with { TopkWeights = call.TopkWeights + 1 }),
                ($"output starts at 0x{call.Output + 8:x}, which is not a multiple of 16 bytes; align it.", call with { Output = call.Output + 8 }),
                ("output is a null pointer; give its address on GPU 0.", call with { Output = 0 }),
                ("Give one output, BF16 or FP32, not both.", call with { OutputF32 = call.Output }),
                ($"hidden_states (0x{pinned.Raw:x}) is pinned host memory; copy it to GPU 0, or call FusedExperts.Forward with spans.",
                    call with { Hidden = pinned.Raw }),
                ($"topk_ids (0x{(nint)host:x}) is no device memory that the driver knows; copy it to GPU 0, or call FusedExperts.Forward with spans.",
                    call with { TopkIds = (nint)host }),
            })
                Assert.Equal(words, Assert.Throws<ArgumentException>(() => at.Queue.Forward(at.Layer, bad)).Message);
        Assert.Contains("run on the reference backend", Assert.Throws<ArgumentException>(() => at.Queue.WorkspaceBytes(at.Reference, 1)).Message);
        at.Queue.Forward(at.Layer, call with { Tokens = 0, Hidden = 0 });
        int[] ids = RandomLayer.Ids(3, TopK, Experts, 3);
        at.Caller.Route(ids);
        at.Queue.Forward(at.Layer, call);
        Same(at.Caller.WithSpans(ids), at.Caller.Output<BFloat16>(), "after all that");
    }

    [Fact]
    public void ALayerThatWasDisposedIsRefused()
    {
        using var at = new Case(tokens: 3);
        at.Queue.Forward(at.Layer, at.Caller.Call);
        _ = at.Caller.Output<BFloat16>();
        at.Layer.Dispose();
        Assert.Throws<ObjectDisposedException>(() => at.Queue.Forward(at.Layer, at.Caller.Call));
        at.Queue.Dispose();
        Assert.Throws<ObjectDisposedException>(() => at.Queue.Forward(at.Layer, at.Caller.Call));
    }

    [Fact]
    public void ACallTakesFewMicrosecondsOfTheHostAndAllocatesNothing()
    {
        Assert.SkipWhen(Gpu.IsEmulated, "EmulatedQueueTests has it, with kernels that do nothing.");
        MeasureHost();
    }

    internal void MeasureHost()
    {
        using var at = new Case(tokens: 1);
        at.Caller.Route([0, 1]);
        LaunchClock.IsOn = true;
        double ours = double.MaxValue, drivers = 0;
        long allocated = long.MaxValue;
        const int calls = 50;
        for (int round = 0; round < 100; round++)
        {
            TimeSpan before = LaunchClock.Elapsed;
            long bytes = GC.GetAllocatedBytesForCurrentThread(), started = Stopwatch.GetTimestamp();
            for (int i = 0; i < calls; i++) at.Queue.Forward(at.Layer, at.Caller.Call);
            TimeSpan whole = Stopwatch.GetElapsedTime(started);
            allocated = Math.Min(allocated, GC.GetAllocatedBytesForCurrentThread() - bytes);
            TimeSpan launches = LaunchClock.Elapsed - before;
            if ((whole - launches).TotalMicroseconds / calls < ours) (ours, drivers) = ((whole - launches).TotalMicroseconds / calls, launches.TotalMicroseconds / calls);
            at.Caller.Stream.Synchronize();
        }
        LaunchClock.IsOn = false;
        log.WriteLine($"host time of a call: {ours:F2} us of ours and {drivers:F2} us in the launch calls of the {(Gpu.IsEmulated ? "emulator" : "driver")}");
        Assert.Equal(0, allocated);
        Assert.True(ours < 5, $"A call took {ours:F2} us of the host beside {drivers:F2} us in launch calls.");
    }

    [Fact]
    public void TheFirstCallOfAProcessTakesLessThanASecond()
    {
        Assert.SkipUnless(DriverLibrary.Availability.IsSupported, DriverLibrary.Availability.Reason ?? ""); // and the driver has started: its time is not the layer's
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, Experts, H, I, 1);
        long started = Stopwatch.GetTimestamp();
        using CudaBackend backend = Gpu.Open();
        using var layer = new FusedExperts(new() { TopK = TopK }, weights, backend);
        layer.Forward(RandomLayer.Hidden(1, H, 2), [0, 1], [1f, 1f], new BFloat16[H]);
        double seconds = Stopwatch.GetElapsedTime(started).TotalSeconds;
        log.WriteLine($"cuInit {DriverLibrary.StartTime.TotalMilliseconds:F0} ms, then to the first result {seconds * 1e3:F0} ms");
        Assert.True(seconds < 1 || Gpu.IsEmulated, $"The first result came after {seconds:F2} s.");
    }

    private static InvalidOperationException? Capture(Case at, bool throws)
    {
        InvalidOperationException? seen = null;
        using CudaGraph graph = at.Caller.Stream.Capture(() => seen = throws ? Assert.Throws<InvalidOperationException>(() => at.Queue.Forward(at.Layer, at.Caller.Call)) : null);
        return seen;
    }

    internal static void Same<T>(T[] expected, T[] actual, string what) where T : IEquatable<T>
    {
        for (int i = 0; i < expected.Length; i++)
            if (!expected[i].Equals(actual[i])) Assert.Fail($"{what}: element {i} is {actual[i]} instead of {expected[i]}");
    }

    /// <summary>A layer on the GPU, a caller with tensors, and a queue on the caller's stream.</summary>
    internal sealed class Case : IDisposable
    {
        public Case(int tokens, bool checkSteps = false)
        {
            Backend = Gpu.Open(checkSteps);
            Weights = RandomLayer.Weights(WeightFormat.Block128, Experts, H, I, 1);
            Layer = new(new() { TopK = TopK }, Weights, Backend);
            Reference = new(new() { TopK = TopK }, Weights, ExpertsBackends.Reference);
            Caller = new(Backend, Layer, tokens);
            Queue = new(Backend, Caller.Stream.Raw);
        }

        public CudaBackend Backend { get; }
        public ExpertWeights Weights { get; }
        public FusedExperts Layer { get; }
        public FusedExperts Reference { get; }
        public Caller Caller { get; }
        public CudaQueue Queue { get; }

        public void Dispose()
        {
            Queue.Dispose();
            Caller.Dispose();
            Layer.Dispose();
            Reference.Dispose();
            Weights.Dispose();
            Backend.Dispose();
        }
    }
}
