using System.Diagnostics;

namespace MoeSharp.Cli;

/// <summary>One row of the table: a layer, a routing and a token count, timed on the GPU.</summary>
internal sealed class GpuCase
{
    private const int ColdRepetitions = 15, HotLoops = 3, MostReplays = 200, FewestReplays = 3;
    private const int HostRounds = 9, HostCalls = 4;
    private const double HotMicroseconds = 20_000; // of a loop
    private const double FloorBytesPerS = 4.65e12, FloorFlopsPerS = 1480e12; // the best of the peers' machine, so that ratios stand beside theirs
    private readonly int[] _ids;
    private readonly float[] _weights;
    private readonly LayerWork _work;

    /// <summary>Routed as the caller says.</summary>
    public GpuCase(GpuLayer layer, int[] ids, float[] weights)
    {
        Layer = layer.Name;
        Shape = layer.Shape;
        Tokens = ids.Length / layer.Shape.TopK;
        (_ids, _weights) = (ids, weights);
        _work = LayerWork.Routed(layer.Shape, layer.Sizes, ids, layer.ExpertMap);
        Load = ExpertLoad.Of(ids, layer.ExpertMap, layer.Shape.Experts);
    }

    /// <summary>Routed by formula.</summary>
    public static GpuCase Random(GpuLayer layer, int tokens, RoutingKind routing, long? seed)
    {
        ExpertsShape shape = layer.Shape;
        var ids = new int[checked(tokens * shape.TopK)];
        var weights = new float[ids.Length];
        SyntheticRouting.Fill(routing, seed ?? SyntheticRouting.DefaultSeed(routing, tokens), shape.GlobalExperts, shape.TopK, ids, weights);
        bool isPeers = seed is null && shape is { Format: WeightFormat.Block128, Activations: ActivationFormat.Fp8 };
        return new(layer, ids, weights) { Routing = routing, Peers = isPeers ? PeerTimes.Of(layer.Name, routing, tokens) : null };
    }

    /// <summary>As reports call it.</summary>
    public string Layer { get; }

    public ExpertsShape Shape { get; }

    /// <summary>T.</summary>
    public int Tokens { get; }

    public RoutingKind Routing { get; private init; }

    /// <summary>Of the local experts.</summary>
    public ExpertLoad Load { get; }

    /// <summary>Of the same layer and routing, or null.</summary>
    public PeerTimes? Peers { get; private init; }

    public long Bytes => _work.Bytes;

    public long Flops => _work.Flops;

    /// <summary>Microseconds that bytes and operations take at the peers' machine's best rates.</summary>
    public double Floor => FloorOf(_work);

    /// <summary>Median microseconds with weights in memory.</summary>
    public double Cold { get; private set; }

    /// <summary>Median of loops: mean microseconds of calls that follow each other.</summary>
    public double Hot { get; private set; }

    /// <summary>Median microseconds of each launch by itself.</summary>
    public IReadOnlyList<(Step Step, double Microseconds)> Steps { get; private set; } = [];

    /// <summary>Nodes of the captured call.</summary>
    public int Launches { get; private set; }

    /// <summary>Median microseconds of the host per call, without what it spends in the driver's launch calls.</summary>
    public double Host { get; private set; }

    /// <summary>Median microseconds per call in the driver's launch calls.</summary>
    public double Driver { get; private set; }

    public double GBPerS => Bytes / Cold / 1e3;

    public double TFlopPerS => Flops / Cold / 1e6;

    internal static double FloorOf(LayerWork work) => 1e6 * Math.Max(work.Bytes / FloorBytesPerS, work.Flops / FloorFlopsPerS);

    /// <summary>Time over what this machine's own ceilings allow.</summary>
    public double OfOwn(DeviceCeilings ceilings) =>
        Cold / Math.Max(Bytes / Math.Max(ceilings.ReadGBPerS, ceilings.FillGBPerS) / 1e3, Flops / ceilings.Fp8TFlopPerS / 1e6);

    /// <summary>Times it; the call's workspace and the buffers are large enough.</summary>
    public void Measure(DeviceCall call, GpuBuffers buffers, LayerTimer timer, CancellationToken cancel)
    {
        call.Prepare(Tokens);
        buffers.Route(_ids, _weights, call.Stream);
        var order = new List<Step>();
        call.Launched = order.Add;
        call.SplitsGemms = true;
        buffers.Enqueue(call); // the first launches load code
        call.SplitsGemms = false;
        call.Launched = null;
        buffers.Enqueue(call);
        call.Stream.Synchronize();
        using CudaGraph graph = call.Stream.Capture(() => buffers.Enqueue(call));
        Launches = graph.Nodes;
        graph.Launch(call.Stream);
        Cold = Median(Times(ColdRepetitions, () => timer.Cold(graph, call.Stream), cancel));
        MeasureSteps(order, call, buffers, timer, cancel);
        int replays = (int)Math.Clamp(HotMicroseconds / Cold, FewestReplays, MostReplays);
        Hot = Median(Times(HotLoops, () => timer.Hot(graph, call.Stream, replays), cancel));
        MeasureHost(call, buffers); // last: by now its code is compiled well
    }

    private void MeasureHost(DeviceCall call, GpuBuffers buffers)
    {
        double[] ours = new double[HostRounds], drivers = new double[HostRounds];
        LaunchClock.IsOn = true;
        for (int round = 0; round < HostRounds; round++)
        {
            TimeSpan before = LaunchClock.Elapsed;
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < HostCalls; i++) buffers.Enqueue(call);
            TimeSpan whole = Stopwatch.GetElapsedTime(start), launches = LaunchClock.Elapsed - before;
            (ours[round], drivers[round]) = ((whole - launches).TotalMicroseconds / HostCalls, launches.TotalMicroseconds / HostCalls);
            call.Stream.Synchronize();
        }
        LaunchClock.IsOn = false;
        (Host, Driver) = (Median(ours), Median(drivers));
    }

    private void MeasureSteps(List<Step> order, DeviceCall call, GpuBuffers buffers, LayerTimer timer, CancellationToken cancel)
    {
        var times = new double[order.Count][];
        for (int s = 0; s < times.Length; s++) times[s] = new double[ColdRepetitions];
        var once = new double[order.Count];
        for (int i = 0; i < ColdRepetitions; i++)
        {
            cancel.ThrowIfCancellationRequested();
            timer.Steps(call, () => buffers.Enqueue(call), once);
            for (int s = 0; s < once.Length; s++) times[s][i] = once[s];
        }
        Steps = [.. order.Zip(times, (step, all) => (step, Median(all)))];
    }

    private static double[] Times(int count, Func<double> once, CancellationToken cancel)
    {
        var times = new double[count];
        for (int i = 0; i < count; i++)
        {
            cancel.ThrowIfCancellationRequested();
            times[i] = once();
        }
        return times;
    }

    private static double Median(double[] times)
    {
        Array.Sort(times);
        return times[times.Length / 2]; // counts are odd
    }
}
