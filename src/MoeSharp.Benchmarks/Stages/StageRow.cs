using System.Diagnostics;
using MoeSharp.Cli;

namespace MoeSharp.Benchmarks;

/// <summary>One kernel at one token count: whole calls, and the stages inside them.</summary>
internal sealed class StageRow
{
    private const int MostCalls = 12, SeedStep = 10_000;
    private const double MillisecondsPerRound = 200;
    private readonly FusedExperts _experts;
    private readonly RoutedCall _call;
    private readonly ExpertWeights _weights;
    private readonly BFloat16[] _output;
    private readonly StageTimes _times = new();
    private readonly List<double> _milliseconds = [];
    private readonly List<double[]> _stages = [];
    private readonly List<double> _bytes = [];

    public StageRow(IGemmKernel kernel, FusedExperts experts, ExpertWeights weights, int tokens)
    {
        Kernel = kernel;
        Tokens = tokens;
        _experts = experts;
        _weights = weights;
        _call = new RoutedCall(experts.Shape, tokens);
        _output = new BFloat16[_call.Hidden.Length];
    }

    public IGemmKernel Kernel { get; }

    /// <summary>T.</summary>
    public int Tokens { get; }

    /// <summary>Median of the calls.</summary>
    public double Milliseconds => ContestResult.Median([.. _milliseconds]);

    /// <summary>Median of the calls' bytes; see <see cref="LayerWork"/>.</summary>
    public double Bytes => ContestResult.Median([.. _bytes]);

    public double Flops => 6.0 * _call.Ids.Length * _experts.Shape.Hidden * _experts.Shape.Intermediate;

    /// <summary>Median milliseconds of a stage, in the order of <see cref="StageTimes.Names"/>.</summary>
    public double Stage(int stage) => ContestResult.Median([.. _stages.Select(s => s[stage])]);

    /// <summary>Calls until a round's time is used up, each with a routing of its own.</summary>
    public void Round(Workspace workspace, bool record)
    {
        var prepared = (CpuExperts)_experts.Prepared;
        prepared.Times = _times;
        double spent = 0;
        for (int i = 0; i < MostCalls && spent < MillisecondsPerRound; i++)
        {
            _call.Route(SyntheticRouting.DefaultSeed(RoutingKind.Uniform, Tokens) + (long)SeedStep * (_milliseconds.Count + MostCalls * (record ? 1 : 0)));
            _times.Clear();
            long start = Stopwatch.GetTimestamp();
            _experts.Forward(_call.Input, _output, workspace);
            double milliseconds = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            spent += milliseconds;
            if (!record) continue;
            _milliseconds.Add(milliseconds);
            _stages.Add([.. Enumerable.Range(0, StageTimes.Names.Length).Select(s => _times.Seconds(s) * 1e3)]);
            _bytes.Add(LayerWork.Routed(_experts.Shape, _weights, _call.Ids, []).Bytes);
        }
        prepared.Times = null;
    }
}
