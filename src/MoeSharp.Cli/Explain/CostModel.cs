namespace MoeSharp.Cli;

/// <summary>What a stage of a call must move and compute, and how long that takes at the machine's ceilings.</summary>
/// <param name="Stage">As reports call it.</param>
/// <param name="Bytes">Read from or written to memory, once.</param>
/// <param name="Flops">Operations.</param>
/// <param name="ByBytes">Milliseconds at the read bandwidth.</param>
/// <param name="ByFlops">Milliseconds at the arithmetic peak.</param>
/// <param name="Predicted">Milliseconds: the longer of the two, expert by expert on the CPU.</param>
internal sealed record StageCost(string Stage, long Bytes, long Flops, double ByBytes, double ByFlops, double Predicted)
{
    public string Bound => Predicted == 0 ? "-" : ByBytes >= ByFlops ? "bytes" : "FLOP";
}

/// <summary>
/// The cost model: bytes over bandwidth, operations over peak. On the CPU an expert's weights are fetched while its rows are multiplied, so an
/// expert costs the longer of the two; experts follow one another. Nothing is fitted: what it leaves out (decoding weights, starting threads, the routing
/// of rows) is the distance between predicted and measured.
/// </summary>
/// <param name="readGBPerS">10^9 bytes per second.</param>
/// <param name="peakGFlopPerS">10^9 operations per second.</param>
internal sealed class CostModel(double readGBPerS, double peakGFlopPerS)
{
    /// <summary>All stages of the cpu backend, in the order of <see cref="StageTimes.Names"/>.</summary>
    public StageCost[] OnCpu(ExplainCase layer)
    {
        StageCost gateUp = GateUp(StageTimes.Names[2], layer), down = Down(StageTimes.Names[3], layer), output = Stream("", HiddenBytes(layer));
        return
        [
            Stream(StageTimes.Names[0], HiddenBytes(layer)),
            Stream(StageTimes.Names[1], 0), // ids: some kilobytes
            gateUp,
            down with { Bytes = down.Bytes + output.Bytes, ByBytes = down.ByBytes + output.ByBytes, Predicted = down.Predicted + output.Predicted },
        ];
    }

    /// <summary>The launches of a GPU, where all experts run at once: the weights of some are fetched while the rows of others are multiplied.</summary>
    public StageCost[] OnGpu(ExplainCase layer) =>
    [
        Stream("quantize+permute", HiddenBytes(layer)),
        AtOnce(GateUp("gate_up+activate", layer)),
        AtOnce(Down("down", layer)),
        Stream("combine", HiddenBytes(layer)),
    ];

    private static long HiddenBytes(ExplainCase layer) => 2L * layer.Tokens * layer.Experts.HiddenSize;

    private static StageCost AtOnce(StageCost cost) => cost with { Predicted = Math.Max(cost.ByBytes, cost.ByFlops) };

    private StageCost GateUp(string stage, ExplainCase layer) => Experts(stage, layer, 4, expert => layer.Weights.Gate[expert].Bytes + layer.Weights.Up[expert].Bytes);

    private StageCost Down(string stage, ExplainCase layer) => Experts(stage, layer, 2, expert => layer.Weights.Down[expert].Bytes);

    private StageCost Stream(string stage, long bytes) => new(stage, bytes, 0, ByBytes(bytes), 0, ByBytes(bytes));

    /// <param name="operations">Per row and weight of an [I, H] matrix: 2 for each matrix.</param>
    /// <param name="expertBytes">Of the matrices.</param>
    private StageCost Experts(string stage, ExplainCase layer, int operations, Func<int, long> expertBytes)
    {
        ExpertsShape shape = layer.Experts.Shape;
        (long bytes, long flops, double predicted) = (0, 0, 0);
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
