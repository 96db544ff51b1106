namespace MoeSharp;

/// <summary>The steps in order; each is a file of its own in this folder.</summary>
internal sealed class ReferenceExperts(ExpertsShape shape, ExpertWeights weights, FiniteCheck? check) : IPreparedExperts
{
    public string Description => "scalar, one thread: the specification in code";

    public void Plan(WorkspacePlan plan, int tokens) => Buffers.Plan(plan, shape, tokens);

    public void Run(in ExpertsCall call, Workspace workspace)
    {
        var buffers = new Buffers(workspace, call.FirstRow, shape);
        Grouping grouping = buffers.Grouping;
        Quantize.Run(shape, call, buffers.Hidden, buffers.Row[..shape.Hidden]);
        check?.Quantized(buffers.Hidden);
        Permute.Run(shape, call.LocalIds, buffers.Hidden, grouping, buffers.Permuted);
        GateUp.Run(weights, grouping, buffers.Permuted, buffers.Scratch, buffers.Gate, buffers.Up);
        check?.GateUp(shape, weights, grouping, buffers.Gate, buffers.Up);
        Activate.Run(shape, grouping.SlotOfRow, buffers.Gate, buffers.Up, buffers.Row[..shape.Intermediate], buffers.Activated);
        check?.Activated(shape, grouping, buffers.Activated);
        Down.Run(weights, grouping, buffers.Activated, buffers.Scratch, buffers.Down);
        check?.Down(shape, weights, grouping, buffers.Down);
        Combine.Run(shape, call, grouping.RowOfSlot, buffers.Down);
        check?.Combined(shape, call);
    }

    /// <summary>The weights are the caller's.</summary>
    public void Dispose()
    {
    }
}
