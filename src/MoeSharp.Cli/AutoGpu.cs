namespace MoeSharp.Cli;

/// <summary>The first GPU, for who did not ask for one: whether it can take a layer.</summary>
internal sealed class AutoGpu : IDisposable
{
    /// <summary>That GPU, once it is known to be usable.</summary>
    public CudaBackend Backend { get; } = new();

    /// <summary>What the latest layer takes and what there is, in words.</summary>
    public string Room { get; private set; } = "";

    /// <summary>Yes, or the first reason why not: device, format, activation, memory.</summary>
    /// <param name="experts">All that it must compute.</param>
    /// <param name="tokens">Of a call.</param>
    public Support Takes(IReadOnlyList<(ExpertsShape Shape, ExpertWeights Weights)> experts, int tokens)
    {
        Support support = Backend.SupportsDevice();
        foreach ((ExpertsShape shape, ExpertWeights weights) in experts) support &= FusedExperts.Supports(Backend, shape) & CudaBackend.SupportsLayer(shape, weights);
        if (!support.IsSupported) return support;
        CudaContext gpu = Backend.Context();
        long needed = experts.Sum(e => Bytes(e.Shape, e.Weights, tokens)), free = gpu.Memory().Free;
        Room = $"{gpu.Name}, GPU {gpu.Ordinal}: the layer takes {Units.Bytes(needed)} of its {Units.Bytes(free)} that are free";
        return needed <= free ? Support.Yes : Support.No($"The layer takes {Units.Bytes(needed)} but {gpu.Name} (GPU {gpu.Ordinal}) has {Units.Bytes(free)} free.");
    }

    /// <summary>While loading, and of a call.</summary>
    private static long Bytes(ExpertsShape shape, ExpertWeights weights, int tokens)
    {
        CudaWeightMemory memory = CudaBackend.WeightMemory(weights);
        return memory.Weights + Math.Max(memory.Loading, DeviceCall.HostBytes(shape, Math.Max(tokens, 1), new WorkspacePlan()));
    }

    public void Dispose() => Backend.Dispose();
}
