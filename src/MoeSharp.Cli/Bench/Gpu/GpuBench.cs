using System.Numerics;

namespace MoeSharp.Cli;

/// <summary>Times layers on a GPU, beside what that GPU could do at best.</summary>
internal sealed class GpuBench : IDisposable
{
    private const int SweepsOverCache = 8, CeilingsOverSweep = 8, MostLaunches = 8;
    private readonly CudaBackend _backend;
    private readonly BenchKernels _kernels;
    private readonly DeviceBuffer _codes;
    private readonly LayerTimer _timer;

    public GpuBench(CudaBackend backend)
    {
        _backend = backend;
        _kernels = new BenchKernels(backend.Kernels());
        Tables = new RandomTables(_kernels);
        // 512 MiB on GPUs with 50 or 60 MiB of second-level cache, which is what the peers' table was measured with.
        long sweep = (long)BitOperations.RoundUpToPowerOf2((ulong)_kernels.Context.CacheBytes * SweepsOverCache);
        _timer = new LayerTimer(_kernels, sweep, MostLaunches);
        _codes = Tables.Codes();
        Ceilings = new DeviceCeilings(_kernels, CeilingsOverSweep * sweep, _codes);
    }

    public DeviceCeilings Ceilings { get; }

    public RandomTables Tables { get; }

    /// <summary>In the order they were measured.</summary>
    public List<GpuCase> Cases { get; } = [];

    /// <summary>Measures the ceilings, then every call of a layer.</summary>
    public void Run(GpuLayer layer, IReadOnlyList<GpuCase> calls, Action<int> next, CancellationToken cancel)
    {
        Ceilings.Round();
        int tokens = calls.Max(row => row.Tokens);
        layer.Call.Prepare(tokens);
        using var buffers = new GpuBuffers(_kernels.Context, layer, tokens, Tables);
        foreach (GpuCase row in calls)
        {
            cancel.ThrowIfCancellationRequested();
            next(row.Tokens);
            row.Measure(layer.Call, buffers, _timer, cancel);
            Cases.Add(row);
        }
        Ceilings.Round();
    }

    public void Dispose()
    {
        Ceilings.Dispose();
        _codes.Dispose();
        _timer.Dispose();
        Tables.Dispose();
    }
}
