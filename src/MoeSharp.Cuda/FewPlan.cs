namespace MoeSharp;

/// <summary>Whether one launch can compute the layer of few tokens, and how: twin of kernels/include/few_arguments.cuh, few_handoff.cuh, few_block.cuh, few_fp8.cuh and few_wide.cuh.</summary>
internal readonly struct FewPlan
{
    /// <summary>Constants of the kernel.</summary>
    internal const int Tokens = 8, Slots = 128, Columns = 512, CounterBytes = 128;

    // Up to so many GateUp units per multiprocessor the math warpgroups of the wide kernel share each unit, two K blocks at a time, so that it takes less than half as long; with more, each takes its own. A ring must hold three such turns.
    private const int SharedUnits = 3, SharedRingBlocks = 6;

    private const int Warpgroups = 3, SharedBytes = 227 * 1024, SlotBytes = 4 * 64 * 128, WideSlotBytes = 64 * 128;
    private const int FewestRingSlots = 2, FewestWideRingSlots = 3; // 64 KB on their way keep the memory of a multiprocessor's share busy
    private const int RoutingBytes = 20 + 12 * Slots + Tokens * Slots, UnitBytes = 32, BarrierBytes = 16, ChunkValues = 16, RowsAlignment = 1024, SumsBytes = 128 * 16 + 16;

    internal FewPlan(ExpertsShape shape)
    {
        int hidden = Formats.Blocks(shape.Hidden, 128), intermediate = Formats.Blocks(shape.Intermediate, 128);
        bool isWide = WideKernels.Serve(shape.Format, shape.Activations);
        int rowBlockBytes = Tokens * 128 * (isWide ? 2 : 1); // BF16 or codes
        (int slotBytes, int headerBytes) = !isWide ? (SlotBytes, 64) // scales of four K blocks
            : shape.Format == WeightFormat.MxFp8 ? (WideSlotBytes + 256, 0) // within the slot
            : (WideSlotBytes, shape.Format == WeightFormat.Bf16 ? 0 : 32);
        long rows = Math.Max(Math.Max(hidden, Warpgroups * intermediate), 4) * (long)rowBlockBytes;
        long scales = isWide ? 0 : 4L * Tokens * (hidden + Warpgroups * intermediate);
        long left = SharedBytes - (slotBytes % RowsAlignment == 0 ? 0 : RowsAlignment) - (isWide ? SumsBytes : 0) - rows - scales - Warpgroups * (BarrierBytes + UnitBytes) - RoutingBytes;
        int rings = isWide ? Warpgroups : 1;
        RingSlots = (int)Math.Max(left / (rings * (slotBytes + headerBytes + BarrierBytes)), 0);
        _sharesUnits = isWide && rings * RingSlots >= SharedRingBlocks * (shape.Format == WeightFormat.Bf16 ? 2 : 1);
        bool serves = 2 * hidden <= Columns && shape.Hidden % ChunkValues == 0 && !shape.HasStraddlingScales && !shape.RouterWeightOnInput
            && RingSlots >= (isWide ? FewestWideRingSlots : FewestRingSlots);
        MostTokens = serves ? Math.Min(Tokens, (Slots - 1) / shape.TopK) : 0;
        HandoffBytes = (long)MostTokens * shape.TopK * (CounterBytes + (intermediate + hidden) * 128 * sizeof(ushort));
    }

    private readonly bool _sharesUnits;

    /// <summary>With how many GateUp units at most math warpgroups share each.</summary>
    internal int MostShared(int multiprocessors) => _sharesUnits ? SharedUnits * multiprocessors : 0;

    /// <summary>Calls of up to so many tokens; 0 where the kernel does not serve the layer.</summary>
    internal int MostTokens { get; }

    /// <summary>Bytes of a side of <see cref="Handoff"/> for those: a row of BF16 per slot, its intermediate and its results.</summary>
    internal long HandoffBytes { get; }

    /// <summary>Of each ring: one of 32 KB, for wide kernels one per warpgroup, of 8 KB.</summary>
    internal int RingSlots { get; }

    /// <summary>GateUp in units of 32 weight rows where blocks then wait less for the last one: by an eighth at least, since smaller units cost more instructions. The wide kernel, where a warpgroup decodes
    /// 32 rows in the time of 64, does not look.</summary>
    internal static FewHalves Halves(int intermediateBlocks, int grid)
    {
        FewHalves halves = default;
        for (int experts = 1; experts < Slots; experts++)
        {
            int units = 4 * intermediateBlocks * experts;
            if (8 * Formats.Blocks(2 * units, grid) <= 7 * 2 * Formats.Blocks(units, grid)) halves[experts / 32] |= 1u << experts;
        }
        return halves;
    }
}
