namespace MoeSharp.Cli;

/// <summary>What a stage of a call must move and compute, and how long that takes at the machine's ceilings.</summary>
/// <param name="Stage">One of <see cref="StageTimes.Names"/>.</param>
/// <param name="Bytes">Read from or written to memory, once.</param>
/// <param name="Flops">Operations.</param>
/// <param name="ByBytes">Milliseconds at the read bandwidth.</param>
/// <param name="ByFlops">Milliseconds at the arithmetic peak.</param>
/// <param name="Predicted">Milliseconds: expert by expert, the longer of the two.</param>
internal sealed record StageCost(string Stage, long Bytes, long Flops, double ByBytes, double ByFlops, double Predicted)
{
    public string Bound => Predicted == 0 ? "-" : ByBytes >= ByFlops ? "bytes" : "FLOP";
}

/// <summary>
/// The cost model of the cpu backend: bytes over bandwidth, operations over peak. An expert's weights are fetched while its rows are multiplied, so an
/// expert costs the longer of the two; experts follow one another. Nothing is fitted: what it leaves out (decoding weights, starting threads, the routing
/// of rows) is the distance between predicted and measured.
/// </summary>
/// <param name="readGBPerS">10^9 bytes per second.</param>
/// <param name="peakGFlopPerS">10^9 operations per second.</param>
internal sealed class CostModel(double readGBPerS, double peakGFlopPerS)
{
    /// <summary>All stages, in the order of <see cref="StageTimes.Names"/>.</summary>
    public StageCost[] Of(ExplainCase layer)
    {
        long hiddenBytes = 2L * layer.Tokens * layer.Experts.HiddenSize;
        ExpertWeights weights = layer.Weights;
        return
        [
            Stream(StageTimes.Names[0], hiddenBytes),
            Stream(StageTimes.Names[1], 0), // ids: some kilobytes
            Experts(StageTimes.Names[2], layer, 4, expert => weights.Gate[expert].Bytes + weights.Up[expert].Bytes, 0),
            Experts(StageTimes.Names[3], layer, 2, expert => weights.Down[expert].Bytes, hiddenBytes),
        ];
    }

    private StageCost Stream(string stage, long bytes) => new(stage, bytes, 0, ByBytes(bytes), 0, ByBytes(bytes));

    /// <param name="operations">Per row and weight of an [I, H] matrix: 2 for each matrix.</param>
    /// <param name="expertBytes">Of the matrices.</param>
    /// <param name="moreBytes">Moved once.</param>
    private StageCost Experts(string stage, ExplainCase layer, int operations, Func<int, long> expertBytes, long moreBytes)
    {
        ExpertsShape shape = layer.Experts.Shape;
        (long bytes, long flops, double predicted) = (moreBytes, 0, ByBytes(moreBytes));
        for (int expert = 0; expert < layer.Load.Rows.Length; expert++)
        {
            if (layer.Load.Rows[expert] == 0) continue;
            long b = expertBytes(expert), f = (long)operations * layer.Load.Rows[expert] * shape.Hidden * shape.Intermediate;
            bytes += b;
            flops += f;
            predicted += Math.Max(ByBytes(b), ByFlops(f));
        }
        return new(stage, bytes, flops, ByBytes(bytes), ByFlops(flops), predicted);
    }

    private double ByBytes(long bytes) => bytes / readGBPerS / 1e6;

    private double ByFlops(long flops) => flops / peakGFlopPerS / 1e6;
}
