using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Reflection;
using System.Text.RegularExpressions;
using Microsoft.Extensions.Logging;

namespace MoeSharp.Tests;

/// <summary>Alone, since the meter is one for the process and other tests' calls would be counted.</summary>
[CollectionDefinition(nameof(TelemetryTests), DisableParallelization = true)]
[Collection(nameof(TelemetryTests))]
public class TelemetryTests
{
    private const int Calls = 3, Tokens = 5;

    [Fact]
    public void CallsAreMeasuredWithTheirTags()
    {
        var seen = new List<(string Name, double Value, Dictionary<string, object?> Tags)>();
        using var listener = Listen((name, value, tags) => seen.Add((name, value, tags.ToArray().ToDictionary())));
        using var layer = new MoeLayer(new TinyLayer().Parts());
        Run(layer, null);
        Assert.Equal(Calls, seen.Count(s => s.Name == "moesharp.calls"));
        Assert.Equal(Calls * Tokens, seen.Where(s => s.Name == "moesharp.tokens").Sum(s => s.Value));
        Assert.All(seen.Where(s => s.Name == "moesharp.call.duration"), s => Assert.InRange(s.Value, 1e-9, 10));
        (string, double Value, Dictionary<string, object?>)[] rows = [.. seen.Where(s => s.Name == "moesharp.expert.rows")];
        Assert.Equal(Calls * layer.Experts.Shape.Experts, rows.Length); // shared experts report none
        Assert.Equal(Calls * Tokens * layer.Router.TopK, rows.Sum(r => r.Value));
        Assert.All(seen, s => Assert.Equal([("activations", "Fp8"), ("backend", "cpu"), ("format", "Block128"), ("layer", "3")],
            s.Tags.Select(t => (t.Key, t.Value!.ToString()!)).Order()));
    }

    [Fact]
    public void ExpertsAloneAreMeasuredToo()
    {
        var seen = new List<string>();
        using var listener = Listen((name, _, tags) => seen.Add($"{name} {tags.Length}"));
        using LayerParts parts = new TinyLayer { Shared = false }.Parts();
        using var experts = new FusedExperts(parts.ExpertsOptions, parts.Experts);
        BFloat16[] hidden = new TinyLayer().HiddenStates(2);
        experts.Forward(hidden, [0, 1, 2, 3, 4, -1], new float[6], new BFloat16[hidden.Length]);
        Assert.Equal(["moesharp.call.duration 3", "moesharp.calls 3", "moesharp.tokens 3"], seen.Where(s => !s.Contains("rows")).Order(StringComparer.Ordinal));
        Assert.Equal(6, seen.Count(s => s == "moesharp.expert.rows 3"));
    }

    /// <summary>What fails is not counted, and its activity says so.</summary>
    [Fact]
    public void FailedCallsAreErrorsOfActivities()
    {
        var activities = new List<Activity>();
        using var listener = new ActivityListener
        {
            ShouldListenTo = s => s.Name == Telemetry.Name,
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllData,
            ActivityStopped = activities.Add,
        };
        ActivitySource.AddActivityListener(listener);
        using var model = Checkpoint.Open(Repository.PathOf("samples/tiny-qwen3-moe-fp8"));
        using (var layer = MoeLayer.Load(model, 1))
        {
            var hidden = new BFloat16[2 * layer.HiddenSize];
            layer.Forward(hidden, new BFloat16[hidden.Length]);
            using var tooSmall = new Workspace(64);
            Assert.Throws<InvalidOperationException>(() => layer.Forward(hidden, new BFloat16[hidden.Length], tooSmall));
        }
        Assert.Equal(["moesharp.load", "moesharp.forward", "moesharp.forward"], activities.Select(a => a.OperationName));
        Assert.Equal([ActivityStatusCode.Unset, ActivityStatusCode.Unset, ActivityStatusCode.Error], activities.Select(a => a.Status));
        Assert.All(activities, a => Assert.Equal(1, a.GetTagItem("layer")));
        Assert.Equal(2, activities[1].GetTagItem("tokens"));
    }

    [Theory, InlineData(false), InlineData(true)]
    public void ForwardAllocatesNothingListenedToOrNot(bool listened)
    {
        using MeterListener? listener = listened ? Listen(static (_, _, _) => { }) : null;
        using var layer = new MoeLayer(new TinyLayer().Parts());
        using var small = new Workspace(layer.PlanBytes(2));
        Run(layer, null);
        long allocated = long.MaxValue;
        for (int attempt = 0; attempt < 5 && allocated > 0; attempt++)
        {
            BFloat16[] hidden = new TinyLayer().HiddenStates(Tokens), output = new BFloat16[hidden.Length];
            long before = GC.GetTotalAllocatedBytes(precise: true);
            for (int i = 0; i < 20; i++)
            {
                layer.Forward(hidden, output);
                layer.Forward(hidden, output, small); // in chunks
            }
            allocated = GC.GetTotalAllocatedBytes(precise: true) - before;
        }
        Assert.Equal(0, allocated);
    }

    [Fact]
    public void ChoicesAndOdditiesAreLogged()
    {
        var logger = new ListLogger();
        using var model = Checkpoint.Open(Repository.PathOf("samples/tiny-qwen3-moe-fp8"), logger);
        using (var layer = MoeLayer.Load(model, 0, new() { Logger = logger, MaxWorkspaceBytes = 1 << 20 }))
            layer.Forward(new BFloat16[800 * layer.HiddenSize], new BFloat16[800 * layer.HiddenSize]);
        using (MoeLayer.Load(model, 0, new() { Logger = logger, Backend = ExpertsBackends.Reference })) { }
        Assert.Equal(["1 Information", "4 Information", "7 Information", "8 Debug", "4 Information", "5 Warning", "7 Information"], logger.Events.Select(e => $"{e.Id.Id} {e.Level}"));
        Assert.Matches("Backend cpu computes 16 experts .*Block128.* activations Fp8: .+", logger.Events[1].Text);
    }

    [Fact]
    public void OddFilesAreWarnedOf()
    {
        string folder = Directory.CreateTempSubdirectory("moesharp-odd-").FullName;
        foreach (string file in Directory.GetFiles(Repository.PathOf("samples/tiny-qwen3-moe-fp8"))) File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
        string index = Path.Combine(folder, "model.safetensors.index.json");
        File.WriteAllText(index, Regex.Replace(File.ReadAllText(index), @"""total_size"": *\d+", @"""total_size"": 1"));
        var logger = new ListLogger();
        using (Checkpoint model = Checkpoint.Open(folder, logger)) Assert.Equal([model.Warnings.Single()], logger.Events.Where(e => e.Id.Id == 2).Select(e => e.Text));
        Directory.Delete(folder, recursive: true);
    }

    [Fact]
    public void AcceptedNaNWeightsAreLoggedWithTheirPlace()
    {
        var values = new Float8E4M3[32 * 32];
        values[5 * 32 + 7] = Float8E4M3.FromBits(0x7F);
        BlockScaledMatrix Matrix(string name, Float8E4M3[] of) => BlockScaledMatrix.Create(WeightFormat.Block128, 32, 32, of, [1], name);
        var clean = new Float8E4M3[32 * 32];
        using var weights = new ExpertWeights([Matrix("g", clean)], [Matrix("u", values)], [Matrix("d", clean)]);
        var logger = new ListLogger();
        using (new FusedExperts(new() { TopK = 1, AllowNaNWeights = true, Logger = logger }, weights)) { }
        Assert.Contains("u (expert 0) holds a NaN code at row 5, column 7", logger.Events.Single(e => e.Level == LogLevel.Warning).Text);
    }

    [Fact]
    public void OneBackendPassedOverLeavesATrace()
    {
        var logger = new ListLogger();
        using LayerParts parts = new TinyLayer().Parts();
        Assert.Equal("cpu", ExpertsBackends.Choose(ExpertsShape.From(parts.ExpertsOptions, parts.Experts), logger).Name);
        Assert.Empty(logger.Events); // the first one fits
    }

    /// <summary>The page's tables are the code's.</summary>
    [Fact]
    public void ThePageListsEveryEventAndInstrument()
    {
        string page = Repository.ReadText("docs/telemetry.md");
        IEnumerable<string> events = typeof(Log).GetMethods(BindingFlags.Public | BindingFlags.Static | BindingFlags.DeclaredOnly)
            .Select(m => (m.Name, Event: m.GetCustomAttribute<LoggerMessageAttribute>()!)).OrderBy(e => e.Event.EventId)
            .Select(e => $"| {e.Event.EventId} | `{e.Name}` | {e.Event.Level} |");
        Assert.Equal(events, Regex.Matches(page, @"^\| \d+ \| `\w+` \| \w+ \|", RegexOptions.Multiline).Select(m => m.Value));
        var instruments = new List<string>();
        using var listener = new MeterListener
        {
            InstrumentPublished = (i, _) =>
            {
                if (i.Meter.Name == Telemetry.Name) instruments.Add($"| `{i.Name}` | {i.GetType().Name.Split('`')[0].ToLowerInvariant()} | {i.Unit} | {i.Description}");
            },
        };
        _ = Telemetry.Calls;
        listener.Start();
        Assert.NotEmpty(instruments);
        Assert.Equal(instruments.Order(StringComparer.Ordinal),
            page.Split('\n').Where(l => l.StartsWith("| `moesharp.", StringComparison.Ordinal) && l.Count(c => c == '|') == 6).Select(l => string.Join('|', l.Split('|')[..5]).TrimEnd()).Order(StringComparer.Ordinal));
    }

    private static void Run(MoeLayer layer, Workspace? workspace)
    {
        BFloat16[] hidden = new TinyLayer().HiddenStates(Tokens), output = new BFloat16[hidden.Length];
        for (int i = 0; i < Calls; i++) layer.Forward(hidden, output, workspace);
    }

    private delegate void Measured(string name, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags);

    private static MeterListener Listen(Measured measured)
    {
        var listener = new MeterListener { InstrumentPublished = (i, l) => { if (i.Meter.Name == Telemetry.Name) l.EnableMeasurementEvents(i); } };
        listener.SetMeasurementEventCallback<long>((i, value, tags, _) => measured(i.Name, value, tags));
        listener.SetMeasurementEventCallback<double>((i, value, tags, _) => measured(i.Name, value, tags));
        listener.Start();
        return listener;
    }
}

/// <summary>Keeps what it hears.</summary>
internal sealed class ListLogger : ILogger
{
    public List<(EventId Id, LogLevel Level, string Text)> Events { get; } = [];

    public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => true;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) =>
        Events.Add((eventId, logLevel, formatter(state, exception)));
}
