namespace MoeSharp;

/// <summary>
/// Sizes of one call on the device: all follow from the shape and the number of tokens, never from the routing, so a captured graph replays under any.
/// </summary>
internal readonly struct DevicePlan
{
    /// <summary>Rows of an expert start at multiples of this: one swizzle period.</summary>
    internal const int RowAlignment = 8;

    /// <summary>Rows of the largest tile; twin of the constant in kernels/include/scheduler.cuh.</summary>
    internal const int TileRows = 256;

    /// <summary>A tile of at most so many rows has its weights on the M side; twin of the constant in kernels/include/scheduler.cuh.</summary>
    internal const int NarrowRows = 96;

    /// <summary>The number of tiles, and behind it units of GateUp and of Down that were given out, and warps that stored GateUp; twin of the constant in kernels/include/arguments.cuh.</summary>
    internal const int TileCounts = 4;

    internal DevicePlan(ExpertsShape shape, int tokens)
    {
        _shape = shape;
        Tokens = tokens;
        Slots = checked(tokens * shape.TopK);
        TopK = shape.TopK;
        Experts = shape.Experts;
        GlobalExperts = shape.GlobalExperts;
        HiddenBlocks = Formats.Blocks(shape.Hidden, 128);
        RowBlocks = shape.HasStraddlingScales ? 2 * HiddenBlocks : HiddenBlocks;
        IntermediateBlocks = Formats.Blocks(shape.Intermediate, 128);
        MadeTokens = shape.RouterWeightOnInput || shape is { Format: WeightFormat.MxFp8, Activations: ActivationFormat.Fp8 } ? tokens : 0;
        HiddenSize = shape.Hidden;
        long active = Math.Min(Slots, shape.Experts);
        Capacity = RowsFor(Slots, shape.Experts);
        IsWide = WideKernels.Serve(shape.Format, shape.Activations);
        MostTiles = checked((int)(IsWide ? 2 * active + Slots / WideTileRows(shape.Format) : active + Slots / TileRows + 1));
        Few = new FewPlan(shape);
    }

    private readonly ExpertsShape _shape;

    /// <summary>Rows that suffice for so many slots under any routing.</summary>
    private static int RowsFor(int slots, int experts) =>
        checked((int)((slots + Math.Min(slots, experts) * (long)(RowAlignment - 1) + RowAlignment - 1) / RowAlignment * RowAlignment));

    /// <summary>Rows that the wide kernels take as few, twin of the constant in kernels/include/wide_scheduler.cuh.</summary>
    internal const int WideFewRows = 16;

    /// <summary>Rows of their largest tile, twins of those in kernels/include/wide_formats.cuh: fewer where promotion takes registers.</summary>
    internal static int WideTileRows(WeightFormat format) => format switch { WeightFormat.MxFp8 => 144, _ => 128 };

    /// <summary>The wide kernels run it: rows are BF16.</summary>
    internal bool IsWide { get; }

    /// <summary>Whether one launch serves the layer.</summary>
    internal FewPlan Few { get; }

    /// <summary>One launch may compute this call.</summary>
    internal bool TakesOneLaunch => Tokens <= Few.MostTokens;

    internal int Tokens { get; }

    /// <summary>S = T*K.</summary>
    internal int Slots { get; }

    /// <summary>⌈H/128⌉.</summary>
    internal int HiddenBlocks { get; }

    /// <summary>K blocks of GateUp: ⌈H/128⌉, or twice that where it sums over H in two passes (<see cref="WeightSizes.Passes"/>), with the rows there twice.</summary>
    internal int RowBlocks { get; }

    /// <summary>⌈I/128⌉.</summary>
    internal int IntermediateBlocks { get; }

    /// <summary>T where router weights go onto the input, or the caller may quantize to MXFP8: hidden states are made of others then. Else 0.</summary>
    private int MadeTokens { get; }

    private int HiddenSize { get; }

    private int TopK { get; }

    private int Experts { get; }

    private int GlobalExperts { get; }

    /// <summary>Rows that suffice for any routing.</summary>
    internal int Capacity { get; }

    /// <summary>Row tiles that suffice for any routing.</summary>
    internal int MostTiles { get; }

    /// <summary>Row tiles that there is memory for: where both GEMMs share a launch (kernels/include/producer.cuh), a block reads one of the first Capacity / 8 before it knows how many there are.</summary>
    private int KeptTiles => IsWide || !GemmsShareALaunch ? MostTiles : Math.Max(MostTiles, Capacity / RowAlignment);

    /// <summary>Fills the plan; returns its bytes, or as many as fewer tokens need: what suffices for these suffices for those too, though their results lie apart.</summary>
    internal long Bytes(WorkspacePlan plan)
    {
        long fewer = 0;
        if (Slots >= LeastSlotsOfTwoLaunches)
        {
            plan.Clear();
            new DevicePlan(_shape, (int)((LeastSlotsOfTwoLaunches - 1) / TopK)).AddTo(plan);
            fewer = plan.Bytes;
        }
        plan.Clear();
        AddTo(plan);
        return Math.Max(plan.Bytes, fewer);
    }

    /// <summary>Adds the device buffers; the order is that of <see cref="Buffer"/>, the largest first so that others may lie inside it.</summary>
    internal void AddTo(WorkspacePlan plan)
    {
        ElementType value = IsWide ? ElementType.BF16 : ElementType.U8;
        int scales = IsWide ? 0 : Capacity;
        plan.Add("results", ElementType.BF16, (long)HiddenBlocks * Capacity, 128, GemmsShareALaunch ? Step.GateUp : Step.Down, Step.Combine);
        plan.Add("rows", value, (long)RowBlocks * Capacity, 128, Step.Quantize, Step.GateUp);
        plan.Add("row_scales", ElementType.F32, RowBlocks, scales, Step.Quantize, Step.GateUp);
        plan.Add("intermediate", value, (long)IntermediateBlocks * Capacity, 128, Step.GateUp, Step.Down);
        plan.Add("intermediate_scales", ElementType.F32, IntermediateBlocks, scales, Step.GateUp, Step.Down);
        plan.Add("row_of_slot", ElementType.I32, Slots, 1, Step.Quantize, Step.Combine);
        plan.Add("tiles", ElementType.I32, KeptTiles, 8, Step.Quantize, Step.Down);
        plan.Add("tile_count", ElementType.I32, TileCounts, 1, Step.Quantize, Step.Down);
        plan.Add("hidden", ElementType.BF16, MadeTokens, HiddenSize, Step.Quantize, Step.Quantize);
    }

    /// <summary>Row tiles of an expert with this many rows, as the device computes them.</summary>
    internal static int RowTiles(int rows) => (rows + TileRows - 1) / TileRows;

    /// <summary>Rows of each of those tiles: cut evenly, at multiples of 8.</summary>
    internal static IEnumerable<int> TilesOf(int rows, int most = TileRows)
    {
        int tiles = Formats.Blocks(rows, most), size = tiles == 0 ? 0 : Formats.Blocks(Formats.Blocks(rows, tiles), 8) * 8;
        for (int row = 0; row < rows; row += size) yield return Math.Min(size, rows - row);
    }

    /// <summary>The same for the wide kernels: what they call entries.</summary>
    internal static int WideEntries(int rows, int tileRows) => rows > WideFewRows ? Formats.Blocks(rows, tileRows) : rows > 0 ? 2 : 0;

    /// <summary>Hidden sizes that are multiples of this are read 32 bytes at a time; quantize_permute_ragged serves the others.</summary>
    internal const int WholeChunk = 16;

    /// <summary>Blocks of quantize_permute and permute_wide, tokens of each and its shared memory.</summary>
    internal (int Blocks, int TokensPerBlock, int Shared) QuantizeGrid(int multiprocessors)
    {
        int perBlock = Formats.Blocks(Tokens, Math.Min(Tokens, multiprocessors));
        return (Formats.Blocks(Tokens, perBlock), perBlock, sizeof(int) * (2 * Experts + 64 + perBlock * TopK));
    }

    /// <summary>
    /// Blocks of combine, whose warps compute 256 elements each, or of combine_many with 512, which has more loads on their way: where that makes 20 warps per multiprocessor. (On an H200 those of T = 512 are 0.3 to 0.7 us
    /// faster then, but for Qwen3-30B, which makes 16: 0.5 us slower.)
    /// </summary>
    internal (bool Many, int Blocks) CombineGrid(int multiprocessors)
    {
        const int part = 256, warpsPerBlock = 8;
        long warps = (long)Tokens * Formats.Blocks(HiddenSize, 2 * part);
        bool many = warps >= 20 * multiprocessors;
        if (!many) warps = (long)Tokens * Formats.Blocks(HiddenSize, part);
        return (many, checked((int)((warps + warpsPerBlock - 1) / warpsPerBlock)));
    }

    /// <summary>
    /// Whether quantize_permute_runs places the rows: where 160 or more per multiprocessor are expected under even routing (21120 for 132 of them). It writes rows faster, but counts in several blocks for the
    /// same tokens and lists rows first. On an H200, T = 8192 and 65536 rows, it takes 212, 66.4, 125 and 102 us instead of 262, 79.7, 152 and 121 (DeepSeek-V3, Qwen3-30B, Qwen3-235B, MiniMax-M2), at T = 4096
    /// 115, 37.0, 64.3 and 52.4 instead of 130, 40.2, 71.5 and 57.5, but 46 and 91 instead of 42 and 80 for the 4096 and 8192 rows of a rank with 32 of 256 experts; at T = 2048 equally long within 1.5 us, 56 instead of 62 for DeepSeek-V3.
    /// </summary>
    internal bool HasLongRuns(int multiprocessors) =>
        !IsWide && HiddenSize % WholeChunk == 0 && (long)Slots * Experts >= (long)RowsOfLongRuns * multiprocessors * GlobalExperts && SharedOfRuns(1) <= MaximumShared;

    /// <summary>
    /// Whether the GEMMs are those for many rows: where an expert expects 168 or more. From there on most tiles have more than 160 rows, of which three K blocks fit in either ring. On an H200: Qwen3-30B
    /// 4 % faster at 192 rows, 1 to 4 % at 256; MiniMax-M2 5 % slower at 96, 2 % at 128, 3 % faster at 192; DeepSeek-V3 2 % slower at 96, 128 and 192; Qwen3-235B equal within 1 %.
    /// </summary>
    internal bool HasManyRows => !IsWide && Slots >= (long)RowsOfManyRows * GlobalExperts;

    /// <summary>
    /// Whether both GEMMs are one launch: where an expert expects fewer than 96 rows, 64 on the wide kernels, and all of them fewer than 12288. Down's weights then come while the last of GateUp's are
    /// multiplied, which saves 10 us of the call; but results cannot lie where rows were, and with more rows the GPU's power decides, not its pauses. On two H200s, one launch -> two, uniform and zipf: DeepSeek-V3
    /// with 16384 rows 3511 -> 3456, 3392 -> 3379 and 3530 -> 3460, 3407 -> 3365 us, with 12288 2915 -> 2885, 2805 -> 2806 and 2948 -> 2955, 2913 -> 2896; MiniMax-M2 1111 -> 1101, 1168 -> 1157 and 1136 -> 1132,
    /// 1183 -> 1183, with 12288 1006 -> 1005, 992 -> 1000 and 1025 -> 1015, 1032 -> 1022, with 8192 903 -> 917 and 940 -> 942.
    /// </summary>
    internal bool GemmsShareALaunch => Slots < LeastSlotsOfTwoLaunches && !WideUnitsAreShort;

    /// <summary>
    /// Whether the wide kernels have many units of few rows: at least 128 experts here that expect at most eight. Going from unit to unit takes long then beside what a unit takes, and longer in one launch. On an H200, one launch -> two,
    /// T = 16, 32, 64, 128: MXFP8 of Qwen3-30B 120 -> 117, 138 -> 138, 166 -> 163, 171 -> 165 us, of MiniMax-M2 371 -> 358, 562 -> 551, 762 -> 735, 831 -> 811, of Qwen3-235B 399 -> 390, 464 -> 457, 572 -> 564, 611 -> 616; BF16
    /// activations 0 to 3 % less but T = 128 of Qwen3-235B and DeepSeek-V3 2 to 3 % more. With 32 of 256 experts one launch is 2 to 7 % faster.
    /// </summary>
    private bool WideUnitsAreShort => IsWide && Experts >= 128 && Slots <= 8L * GlobalExperts;

    private long LeastSlotsOfTwoLaunches => IsWide
        ? (long)WideRowsOfTwoLaunches * GlobalExperts
        : Math.Min((long)RowsOfTwoLaunches * GlobalExperts, (long)LocalRowsOfTwoLaunches * GlobalExperts / Experts);

    private const int RowsOfLongRuns = 160, RowsOfManyRows = 168, RowsOfTwoLaunches = 96, LocalRowsOfTwoLaunches = 12288, WideRowsOfTwoLaunches = 64, MaximumShared = 227 * 1024;

    /// <summary>
    /// Blocks of quantize_permute_runs, tokens of each and its shared memory. Several blocks have the same run of tokens and share the K blocks: the longer a run, the more rows of an
    /// expert are neighbours in it and are written together.
    /// </summary>
    internal (int Blocks, int TokensPerBlock, int Shared) RunsGrid(int multiprocessors)
    {
        const int longRun = 256, longestRun = 512; // beyond the first, rows are neighbours enough; beyond the second, shared memory is too small
        int parts = 1, most = longestRun;
        long least = long.MaxValue;
        for (int pass = 0; pass < 2; pass++) // the most parts that keep the largest block's work within 3 % of the least
            for (int p = 1; p <= Math.Min(HiddenBlocks, multiprocessors); p++)
            {
                int run = Formats.Blocks(Tokens, multiprocessors / p);
                long work = (long)run * Formats.Blocks(HiddenBlocks, p);
                if (p > 1 && run > longRun) break;
                if (pass == 0) least = Math.Min(least, work);
                else if (work <= least + least / 32) parts = p;
            }
        while (most > 1 && SharedOfRuns(most) > MaximumShared) most /= 2;
        int perBlock = Math.Min(most, Formats.Blocks(Tokens, Math.Min(Tokens, multiprocessors / parts)));
        return (Formats.Blocks(Tokens, perBlock) * parts, perBlock, SharedOfRuns(perBlock));
    }

    /// <summary>As kernels/quantize_permute_runs.cu lays it out: two stages, places of rows, and what finding rows takes, which are counters above all.</summary>
    private int SharedOfRuns(int tokens)
    {
        const int stageUnits = 256, unitBytes = 128 + sizeof(float), placeBytes = 2 * sizeof(int), rankers = 8, sums = 96;
        int slots = tokens * TopK, columns = 32, column = sizeof(int) * 2 * (Experts + 1);
        int rest = 2 * Math.Max(stageUnits, Formats.Blocks(tokens, 4) * 4) * unitBytes + slots * placeBytes + sizeof(int) * ((rankers + 1) * Experts + sums + slots);
        while (columns > 1 && (rest + columns * column > MaximumShared || 8 * Experts * columns > Slots)) columns /= 2;
        return rest + columns * column;
    }
}

/// <summary>Rows of a device plan.</summary>
internal enum Buffer
{
    Results, Rows, RowScales, Intermediate, IntermediateScales, RowOfSlot, Tiles, TileCount, Hidden,
}
