namespace MoeSharp;

/// <summary>A layer prepared for the CPU. T tokens, H hidden, I intermediate, E experts, K top-k, S = T*K.</summary>
internal sealed unsafe class CpuExperts : IPreparedExperts
{
    private readonly ExpertsShape _shape;
    private readonly Team _team;
    private readonly TileKernels _kernels;
    private readonly RowKernels _rowKernels;
    private readonly PackedWeights _gateUp, _down;
    private readonly NativeBuffer? _biases;
    private readonly PackedFile? _stored;

    /// <summary>Pieces of laying out: the search for NaN codes, GateUp's weights, Down's.</summary>
    public const int Pieces = 3;

    public CpuExperts(
        ExpertsShape shape, ExpertWeights weights, Team team, IGemmKernel kernel, bool withNaN, PackedFile? stored = null, LoadContext context = default)
    {
        _shape = shape;
        _team = team;
        _stored = stored;
        _kernels = kernel.For(shape.Format, withNaN);
        Description = $"{kernel.Name} on {team.Threads} threads: {kernel.Reason}";
        _gateUp = PackedWeights.GateUp(weights, kernel.Order, stored?.GateUp, context);
        try
        {
            _down = PackedWeights.Down(weights, kernel.Order, DownTilesPerChunk(shape.Hidden, team.Threads), stored?.Down, context);
        }
        catch
        {
            _gateUp.Dispose();
            throw;
        }
        foreach (PackedWeights packed in (PackedWeights[])[_gateUp, _down]) team.Place(packed.Pointer, packed.Bytes, shape.Experts);
        _rowKernels = kernel.RowsFor(shape, weights.Biases is not null, _down.TilesPerChunk * TileBlock.Columns);
        if (weights.Biases is { } biases) _biases = PackBiases(shape, biases, _gateUp.Chunks * TileBlock.MaxDepth);
    }

    public string Description { get; }

    /// <summary>Set by benchmarks, for one caller at a time.</summary>
    public StageTimes? Times { get; set; }

    /// <summary>As kernels read them.</summary>
    public (PackedWeights GateUp, PackedWeights Down) Packed => (_gateUp, _down);

    /// <summary>Bytes of packed weights.</summary>
    public long Bytes => _gateUp.Bytes + _down.Bytes;

    /// <summary>128 columns, or fewer where that would leave threads without a chunk of their own.</summary>
    public static int DownTilesPerChunk(int hidden, int threads)
    {
        int tiles = 4;
        while (tiles > 1 && Formats.Blocks(hidden, tiles * TileBlock.Columns) < threads) tiles /= 2;
        return tiles;
    }

    /// <summary>[E, 2, padded I] gate and up, then [E, H] down.</summary>
    private static NativeBuffer PackBiases(ExpertsShape shape, ExpertBiases biases, int padded)
    {
        int experts = shape.Experts, i = shape.Intermediate;
        var buffer = new NativeBuffer(4L * experts * (2 * padded + shape.Hidden));
        for (int e = 0; e < experts; e++)
        {
            biases.Gate.AsSpan(e * i, i).CopyTo(buffer.Span<float>(4L * (2 * e) * padded, i));
            biases.Up.AsSpan(e * i, i).CopyTo(buffer.Span<float>(4L * (2 * e + 1) * padded, i));
        }
        biases.Down.CopyTo(buffer.Span<float>(4L * experts * 2 * padded, biases.Down.Length));
        return buffer;
    }

    public void Plan(WorkspacePlan plan, int tokens)
    {
        long slots = (long)tokens * _shape.TopK;
        int itemRows = (int)Math.Min(slots, WorkItem.MaxRows);
        plan.Add("hidden", ElementType.BF16, tokens, _shape.Hidden, Step.Quantize, Step.GateUp);
        plan.Add("hidden_scales", ElementType.F32, tokens, _gateUp.Blocks, Step.Quantize, Step.GateUp);
        plan.Add("counts", ElementType.I32, _shape.Experts, 1, Step.Permute, Step.Permute);
        plan.Add("ends", ElementType.I32, _shape.Experts, 1, Step.Permute, Step.Permute);
        plan.Add("row_of_slot", ElementType.I32, tokens, _shape.TopK, Step.Permute, Step.Combine);
        plan.Add("slot_of_row", ElementType.I32, slots, 1, Step.Permute, Step.GateUp);
        plan.Add("items", ElementType.I32, WorkItem.MaxCount(slots, _shape.Experts), 3, Step.Permute, Step.Down);
        plan.Add("activated", ElementType.BF16, _down.Blocks * slots + AmxEmitter.TileRows - 1, TileBlock.MaxDepth, Step.GateUp, Step.Down);
        plan.Add("activated_scales", ElementType.F32, _down.Blocks, slots, Step.GateUp, Step.Down);
        plan.Add("gate_up", ElementType.U8, _team.Threads, GateUpJob.ScratchBytes(itemRows, _kernels), Step.GateUp, Step.Activate);
        plan.Add("shared_items", ElementType.U8, _team.Threads, sizeof(SharedItems), Step.GateUp, Step.Down);
        plan.Add("down", ElementType.U8, _team.Threads, DownJob.ScratchBytes(itemRows, slots, _down.TilesPerChunk * TileBlock.Columns, _kernels), Step.Down, Step.Combine);
    }

    public void Run(in ExpertsCall call, Workspace workspace)
    {
        var buffers = new Buffers(workspace, call.FirstRow);
        StageTimes? times = Times;
        times?.Start();
        Quantize(call, buffers);
        times?.End(0);
        int items = Permute(call, workspace, call.FirstRow);
        times?.End(1);
        GateUpAndActivate(call.Tokens, items, call.MaxThreads, buffers);
        times?.End(2);
        DownAndCombine(call, items, buffers);
        times?.End(3);
    }

    private void Quantize(in ExpertsCall call, in Buffers buffers)
    {
        fixed (BFloat16* hidden = call.Hidden)
        fixed (Float8E4M3* codes = call.QuantizedHidden)
        fixed (float* scales = call.HiddenScales, weights = call.Weights)
        fixed (ScaleE8M0* mxScales = call.HiddenScalesE8M0)
        {
            _team.Run(new QuantizeJob
            {
                Quantizer = new(_shape),
                RowKernels = _rowKernels,
                Width = _shape.Hidden,
                Blocks = _gateUp.Blocks,
                Hidden = hidden,
                Codes = codes,
                Scales = scales,
                MxScales = mxScales,
                Weights = _shape.RouterWeightOnInput ? weights : null,
                Operands = buffers.Hidden,
                OperandScales = buffers.HiddenScales,
            }, call.Tokens, call.MaxThreads);
        }
    }

    /// <summary>Rows stay where they are; only their order is worked out.</summary>
    private static int Permute(in ExpertsCall call, Workspace workspace, int row)
    {
        Span<int> counts = workspace.Span<int>(row + 2), ends = workspace.Span<int>(row + 3);
        Permutation.Count(call.LocalIds, counts);
        Permutation.Starts(counts, 1, ends);
        Permutation.Assign(call.LocalIds, ends, workspace.Span<int>(row + 4), workspace.Span<int>(row + 5));
        return WorkItem.Split(counts, workspace.Span<WorkItem>(row + 6));
    }

    private void GateUpAndActivate(int tokens, int items, int maxThreads, in Buffers buffers)
    {
        int rows = tokens * _shape.TopK, threads = _team.ThreadsWithin(maxThreads);
        new Span<SharedItems>(buffers.SharedItems, _team.Threads).Clear();
        _team.RunWorkers(new GateUpJob
        {
            Kernels = _kernels,
            RowKernels = _rowKernels,
            Weights = new(_gateUp),
            Activation = new(_shape.Activation, _shape.Rounding),
            Quantizer = new(_shape),
            Rule = MoeSharp.Activate.RuleAfter(_shape.Activation),
            Items = buffers.Items,
            ItemCount = items,
            Nodes = _team.Nodes,
            SlotOfRow = buffers.SlotOfRow,
            TopK = _shape.TopK,
            Intermediate = _shape.Intermediate,
            Rows = rows,
            Hidden = buffers.Hidden,
            HiddenScales = buffers.HiddenScales,
            Bias = _biases is null ? null : (float*)_biases.Pointer,
            Shared = buffers.SharedItems,
            Threads = _team.Threads,
            SharedTasks = threads > 1 ? Formats.Blocks(threads, _team.Nodes) : 0,
            Scratch = buffers.GateUp,
            ScratchRows = Math.Min(rows, WorkItem.MaxRows),
            Activated = buffers.Activated,
            ActivatedScales = buffers.ActivatedScales,
        }, items * _gateUp.Chunks, maxThreads);
    }

    private void DownAndCombine(in ExpertsCall call, int items, in Buffers buffers)
    {
        fixed (float* weights = call.Weights, outputF32 = call.OutputF32)
        fixed (BFloat16* output = call.Output)
        {
            new Span<SharedItems>(buffers.SharedItems, _team.Threads).Clear();
            _team.RunWorkers(new DownJob
            {
                Kernels = _kernels,
                RowKernels = _rowKernels,
                Weights = new(_down),
                HasScales = new RowQuantizer(_shape).HasScales,
                Items = buffers.Items,
                ItemCount = items,
                RowOfSlot = buffers.RowOfSlot,
                Tokens = call.Tokens,
                TopK = _shape.TopK,
                Hidden = _shape.Hidden,
                Rows = call.Tokens * _shape.TopK,
                Activated = buffers.Activated,
                ActivatedScales = buffers.ActivatedScales,
                Bias = _biases is null ? null : (float*)_biases.Pointer + (nint)_shape.Experts * 2 * _gateUp.Chunks * TileBlock.MaxDepth,
                RouterWeights = _shape.RouterWeightOnInput ? null : weights,
                Shared = buffers.SharedItems,
                Threads = _team.Threads,
                Scratch = buffers.Down,
                ItemRows = Math.Min(call.Tokens * _shape.TopK, WorkItem.MaxRows),
                Output = output,
                OutputF32 = outputF32,
            }, _down.Chunks, call.MaxThreads);
        }
    }

    /// <summary>The workspace's rows, in the order of <see cref="Plan"/>.</summary>
    private readonly ref struct Buffers(Workspace workspace, int first)
    {
        public readonly BFloat16* Hidden = workspace.Pointer<BFloat16>(first), Activated = workspace.Pointer<BFloat16>(first + 7);
        public readonly float* HiddenScales = workspace.Pointer<float>(first + 1);
        public readonly int* RowOfSlot = workspace.Pointer<int>(first + 4), SlotOfRow = workspace.Pointer<int>(first + 5);
        public readonly WorkItem* Items = workspace.Pointer<WorkItem>(first + 6);
        public readonly byte* GateUp = workspace.Pointer<byte>(first + 9), Down = workspace.Pointer<byte>(first + 11);
        public readonly SharedItems* SharedItems = workspace.Pointer<SharedItems>(first + 10);
        public readonly float* ActivatedScales = workspace.Pointer<float>(first + 8);
    }

    public void Dispose()
    {
        _gateUp.Dispose();
        _down.Dispose();
        _stored?.Dispose();
        _biases?.Dispose();
    }
}
