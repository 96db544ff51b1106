using System.Collections.Concurrent;

namespace MoeSharp;

/// <summary>One layer's experts on one GPU. Concurrent callers get a stream and a workspace each.</summary>
internal sealed class CudaExperts : IPreparedExperts
{
    private readonly KernelSet _kernels;
    private readonly ExpertsShape _shape;
    private readonly ConcurrentBag<DeviceCall> _idle = [];

    internal CudaExperts(KernelSet kernels, ExpertsShape shape, ExpertWeights weights, bool allowNaN, LoadContext context = default)
    {
        _kernels = kernels;
        _shape = shape;
        Weights = new DeviceWeights(kernels, weights, allowNaN, context);
    }

    internal DeviceWeights Weights { get; }

    /// <inheritdoc/>
    public string Description =>
        $"WGMMA FP8 with promotion per 128, kernels of NVRTC {_kernels.Build}, on {_kernels.Context.Name} (GPU {_kernels.Context.Ordinal})";

    /// <summary>Nothing on the host: the workspace lies on the device.</summary>
    public void Plan(WorkspacePlan plan, int tokens)
    {
    }

    /// <inheritdoc/>
    public void Run(in ExpertsCall call, Workspace workspace)
    {
        if (call.Hidden.IsEmpty) throw new UnsupportedException("The CUDA backend quantizes hidden states itself; give them in BF16.");
        DeviceCall device = Rent();
        try
        {
            device.Run(call);
        }
        finally
        {
            _idle.Add(device);
        }
    }

    internal DeviceCall Rent() => _idle.TryTake(out DeviceCall? device) ? device : new DeviceCall(_kernels, Weights, _shape);

    public void Dispose()
    {
        while (_idle.TryTake(out DeviceCall? device)) device.Dispose();
        Weights.Dispose();
    }
}
