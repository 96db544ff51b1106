namespace MoeSharp;

/// <summary>A queue of work on one GPU, not ordered with the host application's default stream.</summary>
internal sealed unsafe class CudaStream : ContextHandle
{
    private const uint NonBlocking = 1;

    internal CudaStream(CudaContext context) : base(context)
    {
        using CudaContext.Scope scope = context.Enter();
        nint stream;
        Native.Check(Native.cuStreamCreate(&stream, NonBlocking));
        Own(stream);
    }

    /// <summary>Waits until all work queued so far is done; a kernel's fault surfaces here.</summary>
    internal void Synchronize()
    {
        using CudaContext.Scope scope = Context.Enter();
        Native.Check(Native.cuStreamSynchronize(Raw));
    }

    /// <summary>Waits until nothing queued is under way any more, whether it failed or not.</summary>
    internal void Drain()
    {
        using CudaContext.Scope scope = Context.Enter();
        _ = Native.cuStreamSynchronize(Raw);
    }

    internal void Wait(CudaEvent @event)
    {
        using CudaContext.Scope scope = Context.Enter();
        Native.Check(Native.cuStreamWaitEvent(Raw, @event.Raw, 0));
    }

    /// <summary>Records what <paramref name="work"/> queues on this stream as a graph instead of running it.</summary>
    internal CudaGraph Capture(Action work)
    {
        const int threadLocal = 1;
        using CudaContext.Scope scope = Context.Enter();
        Native.Check(Native.cuStreamBeginCapture_v2(Raw, threadLocal));
        nint graph = 0;
        try
        {
            work();
        }
        finally
        {
            Native.Check(Native.cuStreamEndCapture(Raw, &graph));
        }
        return new CudaGraph(Context, graph);
    }

    private protected override int Release(nint raw) => Native.cuStreamDestroy_v2(raw);
}
