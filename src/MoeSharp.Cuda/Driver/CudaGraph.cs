namespace MoeSharp;

/// <summary>Recorded work that replays with one call.</summary>
internal sealed unsafe class CudaGraph : ContextHandle
{
    /// <summary>Takes over a captured graph.</summary>
    internal CudaGraph(CudaContext context, nint graph) : base(context)
    {
        using CudaContext.Scope scope = context.Enter();
        nint executable = 0;
        nuint nodes = 0;
        int result = Native.cuGraphGetNodes(graph, null, &nodes);
        if (result == 0) result = Native.cuGraphInstantiateWithFlags(&executable, graph, 0);
        _ = Native.cuGraphDestroy(graph);
        Native.Check(result, nameof(Native.cuGraphInstantiateWithFlags));
        Own(executable);
        Nodes = (int)nodes;
    }

    /// <summary>Launches, copies and fills that it replays.</summary>
    internal int Nodes { get; }

    internal void Launch(CudaStream stream)
    {
        using CudaContext.Scope scope = Context.Enter();
        Native.Check(Native.cuGraphLaunch(Raw, stream.Raw));
    }

    private protected override int Release(nint raw) => Native.cuGraphExecDestroy(raw);
}
