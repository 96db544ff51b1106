using System.Diagnostics;

namespace MoeSharp.Cli;

/// <summary>One row of the table: one token count, timed over and over with a new routing each time.</summary>
internal sealed class BenchCase
{
    private const int SeedStep = 10_000, WarmUpSeeds = 1_000; // repetition r routes with seed + r * step; warm-up calls start far above
    private readonly BenchLayer _layer;
    private readonly RoutingKind _routing;
    private readonly long _seed;
    private readonly BFloat16[] _hidden, _output;
    private readonly int[] _ids;
    private readonly float[] _weights;
    private readonly List<double> _milliseconds = [];
    private readonly List<long> _bytes = [], _flops = [];
    private int _warmUps;

    public BenchCase(BenchLayer layer, int tokens, RoutingKind routing, long? seed)
    {
        _layer = layer;
        _routing = routing;
        _seed = seed ?? SyntheticRouting.DefaultSeed(routing, tokens);
        Tokens = tokens;
        int slots = tokens * layer.Shape.TopK;
        _ids = new int[slots];
        _weights = new float[slots];
        _hidden = new BFloat16[Length(layer.Shape.Hidden)];
        _output = new BFloat16[_hidden.Length];
        SplitMix64.FillNormal(_seed, _hidden);
    }

    /// <summary>T.</summary>
    public int Tokens { get; }

    /// <summary>[T, K] of the latest repetition.</summary>
    public ReadOnlySpan<int> Ids => _ids;

    /// <summary>Timed repetitions so far.</summary>
    public int Repetitions => _milliseconds.Count;

    public double TotalMilliseconds => _milliseconds.Sum();

    public double MedianMilliseconds => Median(_milliseconds);

    /// <summary>Median over the repetitions of <see cref="LayerWork.Bytes"/>.</summary>
    public long Bytes => (long)Median(_bytes);

    /// <summary>Median over the repetitions of <see cref="LayerWork.Flops"/>.</summary>
    public long Flops => (long)Median(_flops);

    public double GigabytesPerSecond => Bytes / MedianMilliseconds / 1e6;

    public double GigaflopPerSecond => Flops / MedianMilliseconds / 1e6;

    /// <summary>Runs once. The first calls warm up code and are not recorded.</summary>
    public void Run(Workspace workspace, bool record)
    {
        long seed = _seed + (long)SeedStep * (record ? Repetitions : WarmUpSeeds + _warmUps++);
        SyntheticRouting.Fill(_routing, seed, _layer.Shape.GlobalExperts, _layer.Shape.TopK, _ids, _weights);
        var input = new ExpertsInput { Hidden = _hidden, TopkIds = _ids, TopkWeights = _weights, ExpertMap = _layer.ExpertMap };
        long start = Stopwatch.GetTimestamp();
        _layer.Experts.Forward(input, _output, workspace);
        double elapsed = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        if (!record) return;
        _milliseconds.Add(elapsed);
        LayerWork work = LayerWork.Routed(_layer.Shape, _layer.Weights, _ids, _layer.ExpertMap);
        _bytes.Add(work.Bytes);
        _flops.Add(work.Flops);
    }

    private int Length(int hidden) =>
        (long)Tokens * hidden <= Array.MaxLength
            ? Tokens * hidden
            : throw new ArgumentException($"{Tokens} tokens of hidden size {hidden} are more than one call takes; lower --tokens.");

    private static double Median<T>(List<T> values) where T : System.Numerics.INumberBase<T>
    {
        double[] sorted = [.. values.Select(double.CreateChecked).Order()];
        return sorted.Length == 0 ? double.NaN : (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }
}
