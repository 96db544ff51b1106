using System.Diagnostics;

namespace MoeSharp.Cli;

/// <summary>Times calls whose weights come from memory: between any two of them, measuring the ceilings reads a gigabyte.</summary>
internal sealed class CallTimes(ExplainCase layer, Ceilings ceilings)
{
    public const int Rounds = 7;
    private const double WarmUpMilliseconds = 200, SlowMilliseconds = 3_000;
    private readonly List<double> _calls = [];
    private readonly List<double[]> _stages = [];

    /// <summary>All that was timed, beside the cost model of the kernel where there is one.</summary>
    /// <param name="kernel">Of the cpu backend, or null.</param>
    /// <param name="threads">That the ceilings were measured on.</param>
    public TimedCall Result(IGemmKernel? kernel, int threads)
    {
        double peak = kernel is null ? ceilings.PeakGFlopPerS() : ceilings.PeakGFlopPerS(kernel);
        return new()
        {
            Call = Median(_calls),
            Costs = kernel is null ? null : new CostModel(ceilings.ReadGBPerS, peak).OnCpu(layer),
            Stages = [.. Enumerable.Range(0, StageTimes.Names.Length).Select(Stage)],
            Ceilings = $"Ceilings on {threads} threads: read {Units.Number(ceilings.ReadGBPerS)} GB/s, {Units.Number(peak)} GFLOP/s of the kernel's kind of arithmetic.",
            Method = $"median of {Units.Plural(_calls.Count, "call")}, weights from memory",
            WriteCeilings = ceilings.WriteJson,
        };
    }

    private double? Stage(int stage) => _stages.Count == 0 ? null : Median([.. _stages.Select(times => times[stage])]);

    public void Run(Action<string, double> step, CancellationToken cancel)
    {
        var output = new BFloat16[layer.Input.Hidden.Length];
        using var workspace = new Workspace(layer.Experts.WorkspaceBytes(layer.Tokens));
        var prepared = layer.Experts.Prepared as CpuExperts;
        var times = new StageTimes();
        double first = Once(), warm = first;
        while (warm < WarmUpMilliseconds) warm += Once();
        for (int round = 0; round < (first > SlowMilliseconds ? 1 : Rounds); round++)
        {
            step($"call {round + 1} of {Rounds}", round);
            cancel.ThrowIfCancellationRequested();
            ceilings.Round();
            times.Clear();
            if (prepared is not null) prepared.Times = times;
            _calls.Add(Once());
            if (prepared is null) continue;
            prepared.Times = null;
            _stages.Add([.. Enumerable.Range(0, StageTimes.Names.Length).Select(stage => 1e3 * times.Seconds(stage))]);
        }

        double Once()
        {
            var input = new ExpertsInput { Hidden = layer.Input.Hidden, TopkIds = layer.Ids, TopkWeights = layer.Input.Weights, ExpertMap = layer.ExpertMap };
            long start = Stopwatch.GetTimestamp();
            layer.Experts.Forward(input, output, workspace);
            return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        }
    }

    private static double Median(List<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted[sorted.Length / 2];
    }
}
