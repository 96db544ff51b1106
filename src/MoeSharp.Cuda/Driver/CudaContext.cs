using System.Runtime.InteropServices;
using System.Text;

namespace MoeSharp;

/// <summary>
/// The primary context of one GPU, retained while anything of ours uses it. It is made current only inside a <see cref="Scope"/>, so a host
/// application finds its own context as it left it.
/// </summary>
internal sealed unsafe class CudaContext : SafeHandle
{
    private readonly int _device;

    /// <summary>Retains the context of this GPU.</summary>
    /// <exception cref="CudaException">No driver, or no such GPU; the message says which.</exception>
    internal CudaContext(int ordinal = 0) : base(0, ownsHandle: true)
    {
        DriverLibrary.Require();
        int count = Count(), device = 0;
        if (ordinal < 0 || ordinal >= count) throw new CudaException($"GPU {ordinal} was asked for but the driver shows {count}; count from 0.", 0);
        Native.Check(Native.cuDeviceGet(&device, ordinal));
        _device = device;
        Ordinal = ordinal;
        Multiprocessors = Attribute(16);
        CacheBytes = Attribute(38);
        Capability = Attribute(75) * 10 + Attribute(76);
        byte* name = stackalloc byte[256];
        Native.Check(Native.cuDeviceGetName(name, 256, device));
        Name = Encoding.UTF8.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(name));
        nint context;
        Native.Check(Native.cuDevicePrimaryCtxRetain(&context, device));
        SetHandle(context);
    }

    /// <summary>GPUs that the driver shows.</summary>
    internal static int Count()
    {
        int count = 0;
        Native.Check(Native.cuDeviceGetCount(&count));
        return count;
    }

    internal int Ordinal { get; }

    internal string Name { get; }

    internal int Multiprocessors { get; }

    /// <summary>Of the second-level cache.</summary>
    internal int CacheBytes { get; }

    /// <summary>Compute capability as 10 major + minor: 90 for Hopper.</summary>
    internal int Capability { get; }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Makes the context current on this thread until the result is disposed.</summary>
    internal Scope Enter()
    {
        ObjectDisposedException.ThrowIf(IsClosed, this);
        Native.Check(Native.cuCtxPushCurrent_v2(handle));
        return default;
    }

    /// <summary>Bytes of device memory that are free now, and in all.</summary>
    internal (long Free, long Total) Memory()
    {
        using Scope scope = Enter();
        nuint free = 0, total = 0;
        Native.Check(Native.cuMemGetInfo_v2(&free, &total));
        return ((long)free, (long)total);
    }

    private int Attribute(int attribute)
    {
        int value = 0;
        Native.Check(Native.cuDeviceGetAttribute(&value, attribute, _device));
        return value;
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => Native.cuDevicePrimaryCtxRelease_v2(_device) == 0;

    internal readonly ref struct Scope
    {
        public void Dispose()
        {
            nint popped;
            _ = Native.cuCtxPopCurrent_v2(&popped);
        }
    }
}

/// <summary>Something that lives in a context and keeps it alive: released inside it, before it.</summary>
internal abstract class ContextHandle : SafeHandle
{
    private bool _held;

    private protected ContextHandle(CudaContext context) : base(0, ownsHandle: true) => Context = context;

    internal CudaContext Context { get; }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>The raw handle; the caller keeps this object alive.</summary>
    internal nint Raw
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, this);
            return handle;
        }
    }

    /// <summary>Takes over what the driver made. What was never made holds nothing.</summary>
    private protected void Own(nint raw)
    {
        Context.DangerousAddRef(ref _held);
        SetHandle(raw);
    }

    private protected abstract int Release(nint raw);

    /// <inheritdoc/>
    protected override unsafe bool ReleaseHandle()
    {
        bool released = Native.cuCtxPushCurrent_v2(Context.DangerousGetHandle()) == 0 && Release(handle) == 0;
        nint popped;
        _ = Native.cuCtxPopCurrent_v2(&popped);
        if (_held) Context.DangerousRelease();
        return released;
    }
}
