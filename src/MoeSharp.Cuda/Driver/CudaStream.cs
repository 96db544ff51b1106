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

/// <summary>Recorded work that replays with one call.</summary>
internal sealed unsafe class CudaGraph : ContextHandle
{
    /// <summary>Takes over a captured graph.</summary>
    internal CudaGraph(CudaContext context, nint graph) : base(context)
    {
        using CudaContext.Scope scope = context.Enter();
        nint executable;
        int result = Native.cuGraphInstantiateWithFlags(&executable, graph, 0);
        _ = Native.cuGraphDestroy(graph);
        Native.Check(result, nameof(Native.cuGraphInstantiateWithFlags));
        Own(executable);
    }

    internal void Launch(CudaStream stream)
    {
        using CudaContext.Scope scope = Context.Enter();
        Native.Check(Native.cuGraphLaunch(Raw, stream.Raw));
    }

    private protected override int Release(nint raw) => Native.cuGraphExecDestroy(raw);
}
