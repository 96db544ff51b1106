using System.Diagnostics.Metrics;
using System.Globalization;
using System.Text;
using MoeSharp;

namespace Endpoint;

/// <summary>Adds up what the library measures and prints it in the text format that scrapers read. Enough for one process without an exporter's packages.</summary>
internal sealed class MetricsText : IDisposable
{
    private readonly MeterListener _listener;
    private readonly Lock _lock = new();
    private readonly SortedDictionary<(string Name, string Tags), Series> _series = [];

    public MetricsText()
    {
        _listener = new() { InstrumentPublished = (instrument, l) => { if (instrument.Meter.Name == Telemetry.Name) l.EnableMeasurementEvents(instrument); } };
        _listener.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Add(instrument, value, tags));
        _listener.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Add(instrument, value, tags));
        _listener.Start();
    }

    /// <summary>Everything so far.</summary>
    public string Read()
    {
        _listener.RecordObservableInstruments();
        var text = new StringBuilder();
        lock (_lock)
        {
            string last = "";
            foreach (((string name, string tags), Series series) in _series)
            {
                if (name != last) text.Append($"# TYPE {name} {series.Type}\n");
                last = name;
                series.Write(text, name, tags);
            }
        }
        return text.ToString();
    }

    private void Add(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        string name = instrument.Name.Replace('.', '_') + instrument.Unit switch { "s" => "_seconds", "By" => "_bytes", _ => "" };
        if (instrument is Counter<long>) name += "_total";
        string text = string.Join(',', tags.ToArray().Select(t => $"{t.Key}=\"{t.Value}\""));
        lock (_lock)
        {
            if (!_series.TryGetValue((name, text), out Series? series)) _series[(name, text)] = series = new(instrument);
            series.Add(value);
        }
    }

    public void Dispose() => _listener.Dispose();

    /// <summary>One instrument under one set of tags.</summary>
    private sealed class Series
    {
        private readonly bool _observed;
        private readonly double[] _bounds = [];
        private readonly long[] _buckets = [];
        private double _sum;
        private long _count;

        public Series(Instrument instrument)
        {
            _observed = instrument.IsObservable;
            if (instrument is Histogram<double> d) _bounds = [.. d.Advice!.HistogramBucketBoundaries!];
            if (instrument is Histogram<long> l) _bounds = [.. l.Advice!.HistogramBucketBoundaries!.Select(b => (double)b)];
            _buckets = new long[_bounds.Length];
        }

        public string Type => _bounds.Length > 0 ? "histogram" : _observed ? "gauge" : "counter";

        public void Add(double value)
        {
            _sum = _observed ? value : _sum + value;
            _count++;
            for (int i = 0; i < _bounds.Length; i++)
                if (value <= _bounds[i]) _buckets[i]++;
        }

        public void Write(StringBuilder text, string name, string tags)
        {
            string braces = tags.Length > 0 ? $"{{{tags}}}" : "", comma = tags.Length > 0 ? "," : "";
            if (_bounds.Length == 0)
            {
                text.Append(CultureInfo.InvariantCulture, $"{name}{braces} {_sum}\n");
                return;
            }
            for (int i = 0; i < _bounds.Length; i++) text.Append(CultureInfo.InvariantCulture, $"{name}_bucket{{{tags}{comma}le=\"{_bounds[i]:R}\"}} {_buckets[i]}\n");
            text.Append(CultureInfo.InvariantCulture, $"{name}_bucket{{{tags}{comma}le=\"+Inf\"}} {_count}\n{name}_sum{braces} {_sum}\n{name}_count{braces} {_count}\n");
        }
    }
}
