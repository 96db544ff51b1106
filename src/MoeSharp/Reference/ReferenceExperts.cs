namespace MoeSharp;

/// <summary>The seven steps in order; each is a file of its own in this folder. T tokens, H hidden, I intermediate, E experts, K top-k, R permuted rows.</summary>
internal sealed class ReferenceExperts(ExpertsShape shape, ExpertWeights weights) : IPreparedExperts
{
    private readonly int _hiddenGroups = Formats.Blocks(shape.Hidden, shape.Group), _intermediateGroups = Formats.Blocks(shape.Intermediate, shape.Group);

    public string Description => "scalar, one thread: the specification in code";

    public void Plan(WorkspacePlan plan, int tokens)
    {
        int h = shape.Hidden, i = shape.Intermediate, e = shape.Experts;
        long rows = Permutation.MaxRows((long)tokens * shape.TopK, e, shape.RowAlignment);
        plan.Add("hidden", ElementType.F32, tokens, h, Step.Quantize, Step.Permute);
        plan.Add("hidden_scales", ElementType.F32, tokens, _hiddenGroups, Step.Quantize, Step.Permute);
        plan.Add("counts", ElementType.I32, e, 1, Step.Permute, Step.Combine);
        plan.Add("ends", ElementType.I32, e, 1, Step.Permute, Step.Combine);
        plan.Add("row_of_slot", ElementType.I32, tokens, shape.TopK, Step.Permute, Step.Combine);
        plan.Add("slot_of_row", ElementType.I32, rows, 1, Step.Permute, Step.Combine);
        plan.Add("permuted", ElementType.F32, rows, h, Step.Permute, Step.GateUp);
        plan.Add("permuted_scales", ElementType.F32, rows, _hiddenGroups, Step.Permute, Step.GateUp);
        plan.Add("weight_row", ElementType.F32, Math.Max(h, i), 1, Step.GateUp, Step.Down);
        plan.Add("gate", ElementType.BF16, rows, i, Step.GateUp, Step.Activate);
        plan.Add("up", ElementType.BF16, rows, i, Step.GateUp, Step.Activate);
        plan.Add("activated", ElementType.F32, rows, i, Step.Activate, Step.Down);
        plan.Add("activated_scales", ElementType.F32, rows, _intermediateGroups, Step.Activate, Step.Down);
        plan.Add("row", ElementType.BF16, Math.Max(h, i), 1, Step.Quantize, Step.Activate);
        plan.Add("down", ElementType.BF16, rows, h, Step.Down, Step.Combine);
    }

    public void Run(in ExpertsCall call, Workspace workspace)
    {
        int r = call.FirstRow;
        var hidden = new Operand(workspace.Span<float>(r), workspace.Span<float>(r + 1), shape.Hidden, _hiddenGroups);
        Span<int> counts = workspace.Span<int>(r + 2), ends = workspace.Span<int>(r + 3);
        Span<int> rowOfSlot = workspace.Span<int>(r + 4), slotOfRow = workspace.Span<int>(r + 5);
        var permuted = new Operand(workspace.Span<float>(r + 6), workspace.Span<float>(r + 7), shape.Hidden, _hiddenGroups);
        Span<float> weightRow = workspace.Span<float>(r + 8);
        Span<BFloat16> gate = workspace.Span<BFloat16>(r + 9), up = workspace.Span<BFloat16>(r + 10);
        var activated = new Operand(workspace.Span<float>(r + 11), workspace.Span<float>(r + 12), shape.Intermediate, _intermediateGroups);
        Span<BFloat16> row = workspace.Span<BFloat16>(r + 13), down = workspace.Span<BFloat16>(r + 14);

        ExpertBiases? bias = weights.Biases;
        Quantize.Run(shape, call, hidden, row);
        Permute.Run(shape, call.LocalIds, hidden, counts, ends, rowOfSlot, slotOfRow, permuted);
        for (int e = 0; e < shape.Experts; e++)
        {
            int count = counts[e], first = ends[e] - count;
            GroupedGemm.Run(weights.Gate[e], bias is null ? default : bias.GateOf(e, shape.Intermediate), permuted.Rows(first, count), weightRow, gate[(first * shape.Intermediate)..]);
            GroupedGemm.Run(weights.Up[e], bias is null ? default : bias.UpOf(e, shape.Intermediate), permuted.Rows(first, count), weightRow, up[(first * shape.Intermediate)..]);
        }
        Activate.Run(shape, slotOfRow, gate, up, row, activated);
        for (int e = 0; e < shape.Experts; e++)
        {
            int count = counts[e], first = ends[e] - count;
            GroupedGemm.Run(weights.Down[e], bias is null ? default : bias.DownOf(e, shape.Hidden), activated.Rows(first, count), weightRow, down[(first * shape.Hidden)..]);
        }
        Combine.Run(shape, call, rowOfSlot, down);
    }

    public void Dispose()
    {
    }
}
