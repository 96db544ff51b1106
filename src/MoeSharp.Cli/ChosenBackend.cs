using System.Globalization;

namespace MoeSharp.Cli;

/// <summary>The backend behind --backend, --threads and --kernel.</summary>
internal sealed class ChosenBackend : IDisposable
{
    /// <summary>GPUs are asked for by name: "cuda", or "cuda:1" for the second.</summary>
    public const string Cuda = "cuda";

    private const string Auto = "auto";

    private readonly IDisposable? _own;
    private readonly AutoGpu? _gpu;

    /// <summary>Only the cpu backend has threads and kernels to choose from, so either makes one of its own and turns auto into it.</summary>
    /// <exception cref="UnsupportedException">There is no such backend, or no GPU for it.</exception>
    public ChosenBackend(string name, int? threads, string? kernel)
    {
        if (Gpu(name) is { } gpu)
        {
            if (threads is not null || kernel is not null)
                throw new UnsupportedException("--threads and --kernel choose among the cpu backend's; leave them out with --backend cuda.");
            var cuda = new CudaBackend(gpu);
            Support support = cuda.SupportsDevice();
            if (!support.IsSupported) cuda.Dispose();
            support.ThrowIfNot();
            _own = cuda;
            Backend = cuda;
            return;
        }
        CpuBackend? cpu = (threads is not null || kernel is not null) && name is Auto or "cpu" ? new CpuBackend(threads, kernel) : null;
        _own = cpu;
        Backend = cpu ?? (name == Auto ? null : ExpertsBackends.ByName(name));
        if (Backend is null) _gpu = new AutoGpu();
    }

    /// <summary>Why auto took a GPU for the latest layer, or why not; null where something was asked for by name.</summary>
    public string? Reason { get; private set; }

    /// <summary>For one layer: auto takes the first GPU if it can compute all of it and has room.</summary>
    /// <param name="experts">All that one backend must compute.</param>
    /// <param name="tokens">Of a call.</param>
    public IExpertsBackend? For(IEnumerable<(ExpertsShape Shape, ExpertWeights Weights)> experts, int tokens)
    {
        if (_gpu is null) return Backend;
        Support takes = _gpu.Takes([.. experts], tokens);
        Reason = takes.Reason is { } no ? $"no GPU: {no}" : _gpu.Room;
        return takes.IsSupported ? _gpu.Backend : null;
    }

    /// <summary>For random weights of a shape.</summary>
    public IExpertsBackend? For(BenchShape shape, WeightFormat format, ActivationFormat? activations, int tokens)
    {
        using ExpertWeights sizes = SyntheticWeights.OnlySizes(shape, format);
        return For([(ExpertsShape.From(BenchLayer.Options(shape, activations), sizes), sizes)], tokens);
    }

    /// <summary>All that --backend takes, in words.</summary>
    public static string Names => $"{Auto}, {string.Join(", ", ExpertsBackends.All.Select(backend => backend.Name))}, {Cuda} or {Cuda}:1";

    /// <summary>Whether there is something with this name, usable or not.</summary>
    public static bool IsName(string name) => name == Auto || Gpu(name) is not null || ExpertsBackends.All.Any(backend => backend.Name == name);

    /// <summary>Ordinal of the GPU that a name means, or null for every other name.</summary>
    public static int? Gpu(string name)
    {
        if (name == Cuda) return 0;
        bool numbered = name.StartsWith(Cuda + ":", StringComparison.Ordinal);
        return numbered && int.TryParse(name.AsSpan(Cuda.Length + 1), NumberStyles.None, CultureInfo.InvariantCulture, out int gpu) ? gpu : null;
    }

    /// <summary>Null stands for auto: the library chooses.</summary>
    public IExpertsBackend? Backend { get; }

    public void Dispose()
    {
        _own?.Dispose();
        _gpu?.Dispose();
    }
}
