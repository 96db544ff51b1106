namespace MoeSharp;

/// <summary>A point in a stream, with its time.</summary>
internal sealed unsafe class CudaEvent : ContextHandle
{
    internal CudaEvent(CudaContext context) : base(context)
    {
        using CudaContext.Scope scope = context.Enter();
        nint @event;
        Native.Check(Native.cuEventCreate(&@event, 0));
        Own(@event);
    }

    internal void Record(CudaStream stream)
    {
        using CudaContext.Scope scope = Context.Enter();
        Native.Check(Native.cuEventRecord(Raw, stream.Raw));
    }

    /// <summary>Waits until the stream has passed; at once where nothing was recorded.</summary>
    internal void Synchronize()
    {
        using CudaContext.Scope scope = Context.Enter();
        Native.Check(Native.cuEventSynchronize(Raw));
    }

    /// <summary>Microseconds from an earlier event to this one; waits for this one.</summary>
    internal double MicrosecondsSince(CudaEvent first)
    {
        using CudaContext.Scope scope = Context.Enter();
        float milliseconds = 0;
        Native.Check(Native.cuEventSynchronize(Raw));
        Native.Check(Native.cuEventElapsedTime(&milliseconds, first.Raw, Raw));
        return milliseconds * 1e3;
    }

    private protected override int Release(nint raw) => Native.cuEventDestroy_v2(raw);
}
