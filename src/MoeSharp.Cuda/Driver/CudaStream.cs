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

    /// <summary>Throws unless a stream (anybody's) belongs to this context, which must be current.</summary>
    /// <exception cref="ArgumentException">It belongs to another one.</exception>
    internal static void RequireContext(nint stream, CudaContext context)
    {
        nint theirs = 0, popped;
        Native.Check(Native.cuStreamGetCtx(stream, &theirs));
        if (theirs == context.DangerousGetHandle()) return;
        int device = -1;
        Native.Check(Native.cuCtxPushCurrent_v2(theirs));
        _ = Native.cuCtxGetDevice(&device);
        _ = Native.cuCtxPopCurrent_v2(&popped);
        throw new ArgumentException($"The stream belongs to {(device == context.Ordinal ? "another context" : "a context")} of GPU {device} but the layers run in "
            + $"the primary context of GPU {context.Ordinal}; create the stream there (the CUDA runtime does).", nameof(stream));
    }

    /// <summary>Whether work queued on a stream (anybody's) is recorded instead of run. Its context must be current.</summary>
    internal static bool IsCapturing(nint stream)
    {
        int status = 0;
        Native.Check(Native.cuStreamIsCapturing(stream, &status));
        return status != 0;
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
