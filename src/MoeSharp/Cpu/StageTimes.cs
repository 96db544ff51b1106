using System.Diagnostics;

namespace MoeSharp;

/// <summary>Where the time of calls went, stage by stage; fused steps share a stage.</summary>
internal sealed class StageTimes
{
    /// <summary>Names of the stages, in order.</summary>
    public static readonly string[] Names = ["quantize", "permute", "gate_up+activate", "down+combine"];

    private readonly long[] _ticks = new long[Names.Length];
    private long _last;

    /// <summary>Seconds of a stage so far.</summary>
    public double Seconds(int stage) => (double)_ticks[stage] / Stopwatch.Frequency;

    public void Clear() => Array.Clear(_ticks);

    public void Start() => _last = Stopwatch.GetTimestamp();

    public void End(int stage)
    {
        long now = Stopwatch.GetTimestamp();
        _ticks[stage] += now - _last;
        _last = now;
    }
}
