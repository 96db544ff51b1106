using System.Runtime.InteropServices;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>One layer as calls of few launches and of four with the same inputs.</summary>
internal sealed class FewLayer : IDisposable
{
    private readonly List<IDisposable> _own = [];
    private readonly DeviceCall _one, _four;
    private readonly DeviceBuffer _hidden, _ids, _weights, _map, _output;
    private readonly Handoff _handoff;
    private readonly uint[] _handed; // what lies in it
    private readonly int _mapLength;
    private int _launches; // of the call that takes one

    public FewLayer(
        ExpertsOptions options, int experts, int hidden, int intermediate, int tokens, WeightFormat format = WeightFormat.Block128, int[]? map = null, bool checkSteps = false)
        : this(options, RandomLayer.Weights(format, experts, hidden, intermediate, 1), tokens, map, checkSteps)
    {
    }

    public FewLayer(ExpertsOptions options, ExpertWeights weights, int tokens, int[]? map = null, bool checkSteps = false, BFloat16[]? hidden = null)
    {
        CudaBackend backend = Own(Gpu.Open(checkSteps));
        ExpertsShape shape = ExpertsShape.From(options, weights);
        DeviceWeights device = Own(new DeviceWeights(backend.Kernels(), weights, allowNaN: options.AllowNaNWeights, activations: shape.Activations));
        _one = Own(new DeviceCall(backend.Kernels(), device, shape));
        _four = Own(new DeviceCall(backend.Kernels(), device, shape) { TakesSteps = true, SplitsGemms = true });
        foreach (DeviceCall call in new[] { _one, _four }) call.Prepare(tokens);
        _one.Launched = _ => _launches++;
        _hidden = Upload(hidden ?? RandomLayer.Hidden(tokens, shape.Hidden, 2));
        _weights = Upload(RandomLayer.TopkWeights(tokens, shape.TopK, 4));
        _ids = Upload(new int[tokens * shape.TopK]);
        _map = Upload(map ?? [0]);
        _mapLength = map?.Length ?? 0;
        _handoff = Own(new Handoff(backend.Context(), new FewPlan(shape).HandoffBytes));
        _handed = new uint[(Handoff.HeaderBytes + 2 * _handoff.SideBytes) / sizeof(uint)];
        _output = Own(new DeviceBuffer(backend.Context(), 4L * tokens * shape.Hidden, "output"));
    }

    public static IEnumerable<(string Name, int[] Ids)> Routings(int tokens, int topK, int experts) =>
    [
        ("random", RandomLayer.Ids(tokens, topK, experts, 3)),
        ("all to one", [.. Enumerable.Repeat(experts - 1, tokens * topK)]), // a token's slots too
        ("none", [.. Enumerable.Repeat(-1, tokens * topK)]),
        ("gaps", RandomLayer.Ids(tokens, topK, experts, 5, dropped: 0.5)),
        ("one slot", [.. Enumerable.Range(0, tokens * topK).Select(i => i == tokens * topK - 1 ? 1 : -1)]),
    ];

    public CudaStream Stream => _one.Stream;

    public void Route(int[] ids) => _ids.Upload<int>(ids, Stream);

    /// <summary>Three times, since each launch leaves something behind for the next: units counted from zero, the other side, and nothing on it.</summary>
    public void Compare(int[] ids, string what, bool isF32 = false, bool weighted = true)
    {
        Route(ids);
        byte[] expected = Output(() => Enqueue(_four, isF32, weighted));
        for (int round = 0; round < 3; round++)
        {
            int before = Side();
            _launches = 0;
            byte[] ours = Output(() => Enqueue(_one, isF32, weighted));
            Assert.Equal(1, _launches);
            int at = expected.AsSpan().CommonPrefixLength(ours);
            Assert.True(at == ours.Length, $"{what}, round {round}: byte {at} of {ours.Length} differs");
            int side = Side();
            Assert.True(side == 1 - before, $"{what}, round {round}: side {before} was not turned over");
            int words = (int)_handoff.SideBytes / sizeof(uint), written = _handed.AsSpan(Handoff.HeaderBytes / sizeof(uint) + side * words, words).IndexOfAnyExcept(uint.MaxValue);
            Assert.True(written < 0, $"{what}, round {round}: word {written} of side {side}, the next launch's, is not absent");
        }
    }

    /// <summary>With more tokens: both GEMMs in one launch against two, several times.</summary>
    public void CompareGemms(int[] ids, string what)
    {
        Route(ids);
        byte[] expected = Output(() => Enqueue(_four, false, true));
        for (int round = 0; round < (Gpu.IsEmulated ? 1 : 3); round++) // there every round is the same
        {
            _launches = 0;
            byte[] ours = Output(() => Enqueue(_one, false, true));
            Assert.Equal(3, _launches);
            int at = expected.AsSpan().CommonPrefixLength(ours);
            Assert.True(at == ours.Length, $"{what}, round {round}: byte {at} of {ours.Length} differs");
        }
    }

    /// <summary>Both captured once and replayed under several routings.</summary>
    public void CompareReplays(int tokens, int topK, int experts, int launches = 1)
    {
        using CudaGraph one = Capture(fourLaunches: false), four = Capture(fourLaunches: true);
        Assert.Equal((launches, 4), (one.Nodes, four.Nodes));
        for (int round = 0; round < 2; round++)
        {
            foreach ((string name, int[] ids) in Routings(tokens, topK, experts))
            {
                Route(ids);
                Assert.Equal(Output(() => four.Launch(Stream)), Output(() => one.Launch(Stream)));
            }
        }
    }

    /// <summary>A layer of real size, every number of tokens, many routings.</summary>
    public static void CompareLarge(CudaBackend backend, RandomTables tables, BenchShape shape, WeightFormat format, ActivationFormat activations) =>
        CompareLarge(backend, tables, shape, format, activations, [.. Enumerable.Range(1, FewPlan.Tokens)], 40);

    public static void CompareLarge(CudaBackend backend, RandomTables tables, BenchShape shape, WeightFormat format, ActivationFormat activations, int[] numbers, int routings)
    {
        using GpuLayer layer = GpuLayer.Random(shape, format, activations, backend, tables);
        using var buffers = new GpuBuffers(backend.Context(), layer, numbers.Max(), tables);
        foreach (int tokens in numbers)
        {
            layer.Call.Prepare(tokens);
            IEnumerable<(string, int[])> random =
                Enumerable.Range(0, routings).Select(seed => ($"seed {seed}", RandomLayer.Ids(tokens, shape.TopK, shape.Experts, seed, dropped: seed % 3 * 0.4)));
            foreach ((string name, int[] ids) in random.Concat(Routings(tokens, shape.TopK, shape.Experts)))
            {
                buffers.Route(ids, RandomLayer.TopkWeights(tokens, shape.TopK, 4), layer.Call.Stream);
                CudaQueueTests.Same(Run(fourLaunches: true, tokens), Run(fourLaunches: false, tokens), $"{format} x {activations}, T={tokens}, {name}");
            }
        }

        BFloat16[] Run(bool fourLaunches, int tokens)
        {
            layer.Call.TakesSteps = layer.Call.SplitsGemms = fourLaunches;
            layer.Call.Workspace.Fill(0xFF, layer.Call.Stream);
            buffers.Enqueue(layer.Call);
            return buffers.Output(tokens * shape.Hidden, layer.Call.Stream);
        }
    }

    /// <summary>The one that the next launch writes; no unit is counted.</summary>
    private int Side()
    {
        _handoff.Download(_handed, Stream);
        Assert.True((_handed[0] & int.MaxValue) == 0, $"{_handed[0] & int.MaxValue} units are left counted");
        return (int)(_handed[0] >> 31);
    }

    public CudaGraph Capture(bool fourLaunches) => Own(Stream.Capture(() => Enqueue(fourLaunches ? _four : _one, false, true)));

    /// <summary>What was written over NaN, beginning with NaN everywhere in both workspaces.</summary>
    public byte[] Output(Action enqueue)
    {
        _one.Workspace.Fill(0xFF, Stream);
        _four.Workspace.Fill(0xFF, Stream);
        _output.Fill(0xFF, Stream);
        enqueue();
        var bytes = new byte[_output.Bytes];
        _output.Download<byte>(bytes, Stream);
        return bytes;
    }

    private void Enqueue(DeviceCall call, bool isF32, bool weighted) => call.Enqueue(new HiddenRows(_hidden.Address),
        new Routes(_ids.Address, _mapLength == 0 ? 0 : _map.Address, weighted ? _weights.Address : 0), new Combined(_output.Address, isF32, default), _handoff, Stream.Raw);

    private DeviceBuffer Upload<T>(T[] values) where T : unmanaged
    {
        DeviceBuffer buffer = Own(new DeviceBuffer(Stream.Context, (long)values.Length * Marshal.SizeOf<T>(), "a test's input"));
        buffer.Upload<T>(values, Stream);
        return buffer;
    }

    private T Own<T>(T what) where T : IDisposable
    {
        _own.Add(what);
        return what;
    }

    public void Dispose()
    {
        for (int i = _own.Count - 1; i >= 0; i--) _own[i].Dispose();
    }
}
