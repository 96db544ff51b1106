using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace MoeSharp;

/// <summary>The backends, in order of preference.</summary>
public static class ExpertsBackends
{
    /// <summary>Scalar, readable, the specification in code.</summary>
    public static IExpertsBackend Reference { get; } = new ReferenceBackend();

    /// <summary>Generated kernels or managed SIMD on all processors; its threads start with the first layer and live as long as the
    /// process.</summary>
    public static IExpertsBackend Cpu { get; } = new CpuBackend();

    /// <summary>All that this assembly has, fastest first.</summary>
    public static IReadOnlyList<IExpertsBackend> All { get; } = [Cpu, Reference];

    /// <summary>The backend with this name; "auto" is not one (pass null where a backend is optional).</summary>
    /// <exception cref="UnsupportedException">The name is unknown; the message lists those that exist.</exception>
    public static IExpertsBackend ByName(string name) =>
        All.FirstOrDefault(b => b.Name == name)
            ?? throw new UnsupportedException($"There is no backend '{name}'; use auto, {string.Join(", ", All.Select(b => b.Name))}.");

    /// <summary>The first backend that supports a layer.</summary>
    /// <exception cref="UnsupportedException">None does; the message holds every reason.</exception>
    public static IExpertsBackend Choose(ExpertsShape shape) => Choose(shape, NullLogger.Instance);

    internal static IExpertsBackend Choose(ExpertsShape shape, ILogger logger)
    {
        var reasons = new List<string>();
        foreach (IExpertsBackend backend in All)
        {
            Support support = FusedExperts.Supports(backend, shape);
            if (support.IsSupported) return backend;
            if (backend is CpuBackend) backend.SupportsDevice().ThrowIfNot(); // a kernel was asked for that is not there: no reason to fall back
            Log.BackendPassedOver(logger, backend.Name, support.Reason);
            reasons.Add($"{backend.Name}: {support.Reason}");
        }
        throw new UnsupportedException("No backend supports this layer. " + string.Join(" ", reasons));
    }
}
