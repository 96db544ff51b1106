using System.Diagnostics;

namespace MoeSharp.Cli;

/// <summary>One layer on one input: routing, output, and how long it took.</summary>
internal sealed class LayerRun
{
    private const int FewRepetitions = 7;
    private const double EnoughMilliseconds = 300, ClockStep = 1e-4; // no tokens take no time, but rates stay numbers
    private readonly RunInput _input;
    private readonly bool _expertsOnly;

    public LayerRun(MoeLayer layer, RunInput input, bool expertsOnly, bool isF32)
    {
        Layer = layer;
        _input = input;
        _expertsOnly = expertsOnly;
        IsF32 = isF32;
        Tokens = input.Hidden.Length / layer.HiddenSize;
        Ids = input.Ids ?? new int[Tokens * layer.Router.TopK];
        Weights = input.Weights ?? new float[Ids.Length];
        if (input.Ids is null) layer.Router.Route(input.Hidden, Ids, Weights);
        Output = isF32 ? [] : new BFloat16[input.Hidden.Length];
        OutputF32 = isF32 ? new float[input.Hidden.Length] : [];
    }

    public MoeLayer Layer { get; }

    /// <summary>T.</summary>
    public int Tokens { get; }

    /// <summary>Whether the output is kept unrounded.</summary>
    public bool IsF32 { get; }

    /// <summary>[T, K].</summary>
    public int[] Ids { get; }

    /// <summary>[T, K].</summary>
    public float[] Weights { get; }

    /// <summary>[T, H], or empty when FP32 was asked for.</summary>
    public BFloat16[] Output { get; }

    /// <summary>[T, H], or empty when BF16 was asked for.</summary>
    public float[] OutputF32 { get; }

    /// <summary>Of the repetitions after the first, which warms up; or of the only one where that took long.</summary>
    public double MedianMilliseconds { get; private set; }

    /// <summary>How many repetitions the median is of.</summary>
    public int Repetitions { get; private set; }

    /// <summary>Computes the output, a few times over to learn the time.</summary>
    public void Time(CancellationToken cancel)
    {
        var times = new List<double> { Once() };
        double total = 0;
        while (times.Count <= FewRepetitions && times[0] + total < EnoughMilliseconds)
        {
            cancel.ThrowIfCancellationRequested();
            times.Add(Once());
            total += times[^1];
        }
        double[] warm = [.. (times.Count > 1 ? times.Skip(1) : times).Order()];
        MedianMilliseconds = warm[warm.Length / 2];
        Repetitions = warm.Length;
    }

    /// <summary>Computes the output.</summary>
    public double Once()
    {
        long start = Stopwatch.GetTimestamp();
        if (_expertsOnly)
        {
            var input = new ExpertsInput { Hidden = _input.Hidden, TopkIds = Ids, TopkWeights = Weights };
            if (IsF32) Layer.Experts.Forward(input, OutputF32);
            else Layer.Experts.Forward(input, Output);
        }
        else if (_input.Ids is not null)
        {
            if (IsF32) Layer.Forward(_input.Hidden, Ids, Weights, OutputF32);
            else Layer.Forward(_input.Hidden, Ids, Weights, Output);
        }
        else
        {
            if (IsF32) Layer.Forward(_input.Hidden, OutputF32);
            else Layer.Forward(_input.Hidden, Output);
        }
        return Math.Max(Stopwatch.GetElapsedTime(start).TotalMilliseconds, ClockStep);
    }

    /// <summary>[T, H], whichever was asked for.</summary>
    public float[] OutputInF32() => IsF32 ? OutputF32 : Array.ConvertAll(Output, value => value.ToSingle());

    /// <summary>How far this run's output is from that of another run of the same input.</summary>
    public Accuracy CompareWith(LayerRun reference) =>
        IsF32 ? Accuracy.Of(OutputF32, reference.OutputF32) : Accuracy.Of(Output, reference.Output);
}
