namespace MoeSharp;

/// <summary>The reference's buffers: planned by <see cref="Plan"/>, found again in the same order.</summary>
internal readonly ref struct Buffers
{
    public static void Plan(WorkspacePlan plan, ExpertsShape shape, int tokens)
    {
        int h = shape.Hidden, i = shape.Intermediate, e = shape.Experts;
        long rows = Permutation.MaxRows((long)tokens * shape.TopK, e, shape.RowAlignment);
        PlanRows(plan, shape, "hidden", "hidden_scales", tokens, h, Step.Quantize, Step.Permute);
        PlanRows(plan, shape, "permuted", "permuted_scales", rows, h, Step.Permute, Step.GateUp);
        PlanRows(plan, shape, "activated", "activated_scales", rows, i, Step.Activate, Step.Down);
        plan.Add("counts", ElementType.I32, e, 1, Step.Permute, Step.Down);
        plan.Add("ends", ElementType.I32, e, 1, Step.Permute, Step.Down);
        plan.Add("row_of_slot", ElementType.I32, tokens, shape.TopK, Step.Permute, Step.Combine);
        plan.Add("slot_of_row", ElementType.I32, rows, 1, Step.Permute, Step.Activate);
        plan.Add("gate", ElementType.BF16, rows, i, Step.GateUp, Step.Activate);
        plan.Add("up", ElementType.BF16, rows, i, Step.GateUp, Step.Activate);
        plan.Add("down", ElementType.BF16, rows, h, Step.Down, Step.Combine);
        plan.Add("row", ElementType.BF16, 1, Math.Max(h, i), Step.Quantize, Step.Activate);
        plan.Add("scratch", ElementType.F32, 1, GroupedGemm.Scratch(Math.Max(h, i)), Step.GateUp, Step.Down);
    }

    public Buffers(Workspace workspace, int row, ExpertsShape shape)
    {
        Hidden = Rows.In(workspace, row, shape, shape.Hidden);
        Permuted = Rows.In(workspace, row + 2, shape, shape.Hidden);
        Activated = Rows.In(workspace, row + 4, shape, shape.Intermediate);
        Grouping = new()
        {
            Counts = workspace.Span<int>(row + 6),
            Ends = workspace.Span<int>(row + 7),
            RowOfSlot = workspace.Span<int>(row + 8),
            SlotOfRow = workspace.Span<int>(row + 9),
        };
        Gate = workspace.Span<BFloat16>(row + 10);
        Up = workspace.Span<BFloat16>(row + 11);
        Down = workspace.Span<BFloat16>(row + 12);
        Row = workspace.Span<BFloat16>(row + 13);
        Scratch = workspace.Span<float>(row + 14);
    }

    /// <summary>[T, H].</summary>
    public Rows Hidden { get; }
    /// <summary>[rows, H].</summary>
    public Rows Permuted { get; }
    /// <summary>[rows, I].</summary>
    public Rows Activated { get; }
    public Grouping Grouping { get; }
    /// <summary>[rows, I].</summary>
    public Span<BFloat16> Gate { get; }
    /// <summary>[rows, I].</summary>
    public Span<BFloat16> Up { get; }
    /// <summary>[rows, H].</summary>
    public Span<BFloat16> Down { get; }
    /// <summary>[max(H, I)].</summary>
    public Span<BFloat16> Row { get; }
    /// <summary>For <see cref="GroupedGemm"/>.</summary>
    public Span<float> Scratch { get; }

    /// <summary>Two plan rows: values or codes, and scales.</summary>
    private static void PlanRows(WorkspacePlan plan, ExpertsShape shape, string name, string scales, long rows, int width, Step first, Step last)
    {
        plan.Add(name, shape.Activations == ActivationFormat.Fp8 ? ElementType.U8 : ElementType.BF16, rows, width, first, last);
        ElementType scale = shape.Format == WeightFormat.MxFp8 ? ElementType.U8 : ElementType.F32;
        plan.Add(scales, scale, rows, Formats.Blocks(width, shape.Group), first, last);
    }
}
