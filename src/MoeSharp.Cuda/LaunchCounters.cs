namespace MoeSharp;

/// <summary>What the blocks of the one launch of few tokens count with, apart from workspaces, which others may overwrite: all zero between launches, since every launch puts
/// them back. For launches that follow each other; a launch that does not get to its end takes the context with it.</summary>
internal sealed class LaunchCounters : IDisposable
{
    private readonly DeviceBuffer _counters;

    internal LaunchCounters(CudaContext context)
    {
        using var stream = new CudaStream(context);
        _counters = new DeviceBuffer(context, sizeof(uint) * FewPlan.Counters, "counters");
        _counters.Fill(0, stream);
        stream.Synchronize();
    }

    internal ulong Address => _counters.Address;

    public void Dispose() => _counters.Dispose();
}
