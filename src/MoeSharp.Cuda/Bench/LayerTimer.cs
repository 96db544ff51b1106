namespace MoeSharp;

/// <summary>Times what was queued for a layer on the GPU's own clock, in microseconds.</summary>
internal sealed class LayerTimer : IDisposable
{
    private readonly BenchKernels _kernels;
    private readonly DeviceBuffer _sweep;
    private readonly CudaEvent[] _marks;

    /// <param name="kernels">Of the GPU.</param>
    /// <param name="sweepBytes">Read before each cold call, so that its weights come from memory.</param>
    /// <param name="steps">Most steps that <see cref="Steps"/> tells apart.</param>
    internal LayerTimer(BenchKernels kernels, long sweepBytes, int steps)
    {
        _kernels = kernels;
        _sweep = new DeviceBuffer(kernels.Context, sweepBytes, "sweeping the cache");
        _marks = new CudaEvent[steps + 1];
        for (int i = 0; i < _marks.Length; i++) _marks[i] = new CudaEvent(kernels.Context);
        using var stream = new CudaStream(kernels.Context);
        kernels.Fill(_sweep, stream);
        stream.Synchronize();
    }

    /// <summary>One replay after a sweep that only reads, so that the cache holds clean lines of something else.</summary>
    internal double Cold(CudaGraph graph, CudaStream stream)
    {
        _kernels.Read(_sweep, stream);
        _marks[0].Record(stream);
        graph.Launch(stream);
        _marks[1].Record(stream);
        return _marks[1].MicrosecondsSince(_marks[0]);
    }

    /// <summary>Mean of so many replays, one directly after the other.</summary>
    internal double Hot(CudaGraph graph, CudaStream stream, int replays)
    {
        _marks[0].Record(stream);
        for (int i = 0; i < replays; i++) graph.Launch(stream);
        _marks[1].Record(stream);
        return _marks[1].MicrosecondsSince(_marks[0]) / replays;
    }

    /// <summary>After a sweep, each launch of a call by itself, with a launch per GEMM: none starts before the one ahead of it has ended, so their sum exceeds the call's time.</summary>
    /// <param name="call">Queues on its stream.</param>
    /// <param name="queue">Has <paramref name="call"/> queue a layer.</param>
    /// <param name="microseconds">One per launch.</param>
    internal void Steps(DeviceCall call, Action queue, Span<double> microseconds)
    {
        int mark = 0;
        _kernels.Read(_sweep, call.Stream);
        _marks[0].Record(call.Stream);
        call.Launched = _ => _marks[++mark].Record(call.Stream);
        call.SplitsGemms = true;
        try
        {
            queue();
        }
        finally
        {
            call.Launched = null;
            call.SplitsGemms = false;
        }
        for (int i = 0; i < microseconds.Length; i++) microseconds[i] = _marks[i + 1].MicrosecondsSince(_marks[i]);
    }

    public void Dispose()
    {
        foreach (CudaEvent mark in _marks) mark.Dispose();
        _sweep.Dispose();
    }
}
