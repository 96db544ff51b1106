namespace MoeSharp.Cli;

/// <summary>Times a call on a GPU as <c>bench</c> does: captured, after a sweep that empties the second-level cache; then launch by launch.</summary>
internal static class GpuCallTimes
{
    /// <summary>Measures the GPU's ceilings and the call.</summary>
    public static TimedCall Of(ExplainCase layer, CudaBackend gpu, CancellationToken cancel)
    {
        using GpuLayer called = GpuLayer.Of(layer);
        using var bench = new GpuBench(gpu);
        var timed = new GpuCase(called, layer.Ids, layer.Input.Weights!);
        bench.Run(called, [timed], _ => { }, cancel);
        DeviceCeilings ceilings = bench.Ceilings;
        bool isBf16 = WideKernels.Serve(called.Shape.Format, called.Shape.Activations);
        double peak = ceilings.Fp8TFlopPerS * 1e3 / (isBf16 ? 2 : 1); // tensor cores multiply BF16 at half the rate of FP8
        return new()
        {
            Call = timed.Cold / 1e3,
            Costs = new CostModel(ceilings.ReadGBPerS, peak).OnGpu(layer),
            Stages = [.. new[] { Step.Quantize, Step.GateUp, Step.Down, Step.Combine }.Select(first => Milliseconds(timed, first))],
            Ceilings = $"Ceilings of this GPU: read {Units.Number(ceilings.ReadGBPerS)} GB/s, {(isBf16 ? "BF16" : "FP8")} products {Units.Number(peak / 1e3)} TFLOP/s.",
            Method = "median of captured calls, weights from memory",
            WriteCeilings = ceilings.WriteJson,
        };
    }

    private static double? Milliseconds(GpuCase timed, Step first) => timed.Steps.Where(launch => launch.Step == first).Sum(launch => launch.Microseconds) / 1e3;
}
