namespace MoeSharp;

/// <summary>Where blocks of the one launch of few tokens hand results to each other: twin of kernels/include/few_handoff.cuh. It lies apart from workspaces, which others may overwrite, since every launch
/// finds it as the one before left it. For launches that follow each other, of any layers; a launch that does not get to its end takes the context with it.</summary>
internal sealed class Handoff : IDisposable
{
    /// <summary>Constant of the kernel.</summary>
    internal const int HeaderBytes = 128;

    private readonly DeviceBuffer _buffer;

    /// <param name="context">Of the launches.</param>
    /// <param name="sideBytes">Of the largest launch: <see cref="FewPlan.HandoffBytes"/>.</param>
    internal Handoff(CudaContext context, long sideBytes)
    {
        using var stream = new CudaStream(context);
        SideBytes = sideBytes;
        _buffer = new DeviceBuffer(context, HeaderBytes + 2 * sideBytes, "what blocks of one launch hand to each other");
        _buffer.Fill(0xFF, stream); // absent
        _buffer.Upload(new byte[HeaderBytes], stream);
        stream.Synchronize();
    }

    internal ulong Address => _buffer.Address;

    /// <summary>Of each of the two sides, which launches take by turns.</summary>
    internal long SideBytes { get; }

    /// <summary>For tests: all that lies in it.</summary>
    internal void Download(uint[] words, CudaStream stream) => _buffer.Download<uint>(words, stream);

    public void Dispose() => _buffer.Dispose();
}
