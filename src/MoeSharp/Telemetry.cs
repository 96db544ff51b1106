using System.Diagnostics;
using System.Diagnostics.Metrics;

namespace MoeSharp;

/// <summary>Measurements and activities of all layers of the process; docs/telemetry.md lists them. Nobody listening costs nothing.</summary>
public static class Telemetry
{
    /// <summary>Name of the <see cref="Meter"/> and of the <see cref="ActivitySource"/>.</summary>
    public const string Name = "MoeSharp";

    private static readonly Meter s_meter = new(Name, typeof(Telemetry).Assembly.GetName().Version?.ToString(3));

    internal static ActivitySource Activities { get; } = new(Name, s_meter.Version);

    internal static Counter<long> Calls { get; } = s_meter.CreateCounter<long>("moesharp.calls", "{call}", "Forward calls that ended well");

    internal static Counter<long> Tokens { get; } = s_meter.CreateCounter<long>("moesharp.tokens", "{token}", "Tokens of these calls");

    internal static Histogram<double> CallDuration { get; } = s_meter.CreateHistogram(
        "moesharp.call.duration", "s", "Time of a call", advice: new InstrumentAdvice<double> { HistogramBucketBoundaries = Decades(1e-5, 6) });

    internal static Histogram<long> ExpertRows { get; } = s_meter.CreateHistogram(
        "moesharp.expert.rows", "{row}", "Rows that a call sends to a local expert, one value per expert",
        advice: new InstrumentAdvice<long> { HistogramBucketBoundaries = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096] });

    internal static Histogram<double> LoadDuration { get; } = s_meter.CreateHistogram(
        "moesharp.load.duration", "s", "Time to read a layer and lay its weights out",
        advice: new InstrumentAdvice<double> { HistogramBucketBoundaries = Decades(1e-3, 6) });

    private static readonly ObservableUpDownCounter<long> s_memory = s_meter.CreateObservableUpDownCounter(
        "moesharp.memory", () => NativeBuffer.LiveBytes, "By", "Native memory held: weights laid out or copied, workspaces");

    /// <summary>1, 2, 5, 10, ... times the start.</summary>
    private static double[] Decades(double start, int decades) =>
        [.. Enumerable.Range(0, 3 * decades).Select(i => start * Math.Pow(10, i / 3) * (i % 3) switch { 0 => 1, 1 => 2, _ => 5 })];
}

/// <summary>What one layer reports, with tags made once.</summary>
internal sealed class CallMeter
{
    private readonly KeyValuePair<string, object?>[] _tags;

    /// <param name="shape">Formats.</param>
    /// <param name="backend">What computes.</param>
    /// <param name="layer">Index of the decoder layer; null where nobody knows.</param>
    public CallMeter(ExpertsShape shape, IExpertsBackend backend, int? layer)
    {
        var tags = new List<KeyValuePair<string, object?>> { new("backend", backend.Name), new("format", shape.Format.ToString()), new("activations", shape.Activations.ToString()) };
        if (layer is int known) tags.Add(new("layer", known));
        _tags = [.. tags];
    }

    public CallTimer Start(int tokens) => new(this, tokens);

    /// <param name="rows">[E].</param>
    public void RecordRows(ReadOnlySpan<int> rows)
    {
        foreach (int count in rows) Telemetry.ExpertRows.Record(count, _tags);
    }

    public void RecordLoad(long started, Activity? activity)
    {
        Telemetry.LoadDuration.Record(Stopwatch.GetElapsedTime(started).TotalSeconds, _tags);
        Tag(activity);
    }

    private void Tag(Activity? activity)
    {
        if (activity is null) return;
        foreach ((string key, object? value) in _tags) activity.SetTag(key, value);
    }

    /// <summary>One call from its checks to its end.</summary>
    internal struct CallTimer : IDisposable
    {
        private readonly CallMeter _meter;
        private readonly Activity? _activity;
        private readonly long _started;
        private readonly int _tokens;
        private bool _completed;

        public CallTimer(CallMeter meter, int tokens)
        {
            _meter = meter;
            _tokens = tokens;
            _activity = Telemetry.Activities.StartActivity("moesharp.forward");
            _meter.Tag(_activity);
            _activity?.SetTag("tokens", tokens);
            if (Telemetry.CallDuration.Enabled) _started = Stopwatch.GetTimestamp();
        }

        public void Complete()
        {
            _completed = true;
            if (_started != 0) Telemetry.CallDuration.Record(Stopwatch.GetElapsedTime(_started).TotalSeconds, _meter._tags);
            Telemetry.Calls.Add(1, _meter._tags);
            Telemetry.Tokens.Add(_tokens, _meter._tags);
        }

        public readonly void Dispose()
        {
            if (!_completed) _activity?.SetStatus(ActivityStatusCode.Error);
            _activity?.Dispose();
        }
    }
}
