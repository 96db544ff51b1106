using System.Diagnostics.CodeAnalysis;

namespace MoeSharp;

/// <summary>Argument structs of calls with one number of tokens at a time, with workspace and stream of its own where a caller has none; the steps are queued in
/// four launches, three where both GEMMs share one, or one of few tokens.</summary>
internal sealed class DeviceCall : IDisposable
{
    private readonly KernelSet _kernels;
    private readonly DeviceWeights _weights;
    private readonly ExpertsShape _shape;
    private readonly WorkspacePlan _plan = new();
    private CudaStream? _stream;
    private DeviceBuffer? _workspace, _inputs;
    private Handoff? _handoff;
    private GemmsArguments _gemms;
    private FewArguments _few;
    private WideSteps? _wide;
    private ulong _base;
    private int _tokens;

    internal DeviceCall(KernelSet kernels, DeviceWeights weights, ExpertsShape shape)
    {
        _kernels = kernels;
        _weights = weights;
        _shape = shape;
    }

    /// <summary>Its own.</summary>
    internal CudaStream Stream => _stream ??= new CudaStream(_kernels.Context);

    /// <summary>Called after each launch with the first of the steps that it computes.</summary>
    internal Action<Step>? Launched { get; set; }

    /// <summary>For tests: steps of few tokens too, where one launch would do.</summary>
    internal bool TakesSteps { get; set; }

    /// <summary>For tests and timing: GateUp and Down in launches of their own.</summary>
    internal bool SplitsGemms { get; set; }

    internal WorkspacePlan Plan => _plan;

    internal DeviceBuffer Workspace => _workspace!;

    internal DevicePlan Sizes { get; private set; }

    /// <summary>Device address of a buffer of the plan.</summary>
    internal ulong Address(Buffer buffer) => _base + (ulong)_plan.Rows[(int)buffer].Offset;

    /// <summary>Plans for this many tokens and makes room.</summary>
    internal void Prepare(int tokens)
    {
        if (tokens == _tokens && _base == _workspace?.Address) return;
        long bytes = new DevicePlan(_shape, tokens).Bytes(_plan);
        _tokens = 0; // the plan is being filled anew
        if (_workspace is null || _workspace.Bytes < bytes)
        {
            _workspace?.Dispose();
            _workspace = null;
            _workspace = new DeviceBuffer(_kernels.Context, bytes, $"the workspace of {tokens} tokens");
        }
        Place(tokens, _workspace.Address);
        if (Sizes.TakesOneLaunch) _handoff ??= new Handoff(_kernels.Context, Sizes.Few.HandoffBytes);
    }

    /// <summary>Plans for this many tokens in memory of somebody else, as many bytes as the plan says.</summary>
    internal void Place(int tokens, ulong workspace)
    {
        if (tokens == _tokens && workspace == _base) return;
        _tokens = 0;
        using CudaContext.Scope scope = _kernels.Context.Enter();
        Sizes = new DevicePlan(_shape, tokens);
        Sizes.Bytes(_plan);
        _base = workspace;
        _wide = Sizes.IsWide ? new WideSteps(_kernels, _weights, _shape, Sizes, Address) : null;
        if (Sizes.TakesOneLaunch) _few = Few();
        _tokens = tokens;
        if (_wide is not null) return;
        _gemms.GateUp = Gemm(_weights.GateUp, _weights.GateUpScales, Buffer.Rows, Buffer.RowScales, Buffer.Intermediate, Sizes.RowBlocks, 2 * Sizes.IntermediateBlocks);
        _gemms.Units = Address(Buffer.TileCount) + sizeof(int);
        _gemms.GateUp.ResultScales = Address(Buffer.IntermediateScales);
        _gemms.GateUp.Activation = ActivationArguments.From(_shape);
        _gemms.Down = Gemm(_weights.Down, _weights.DownScales, Buffer.Intermediate, Buffer.IntermediateScales, Buffer.Results, Sizes.IntermediateBlocks, Sizes.HiddenBlocks);
    }

    private FewArguments Few() => new()
    {
        GateUp = _weights.GateUp.Address,
        GateUpScales = _weights.GateUpScales.Address,
        GateUpBiases = _weights.GateUpBiases.OrNull,
        Down = _weights.Down.Address,
        DownScales = _weights.DownScales.Address,
        DownBiases = _weights.DownBiases.OrNull,
        Results = Address(Buffer.Results),
        Experts = _shape.Experts,
        HiddenBlocks = Sizes.HiddenBlocks,
        IntermediateBlocks = Sizes.IntermediateBlocks,
        PowerOfTwo = _shape.PowerOfTwoScales ? 1 : 0,
        Quantize = _shape.Activations == ActivationFormat.Fp8 ? 1 : 0,
        RingSlots = Sizes.Few.RingSlots,
        Halves = FewPlan.Halves(Sizes.IntermediateBlocks, _kernels.Context.Multiprocessors),
        MostShared = Sizes.Few.MostShared(_kernels.Context.Multiprocessors),
        Activation = ActivationArguments.From(_shape),
    };

    private GemmArguments Gemm(DeviceRange weights, DeviceRange scales, Buffer rows, Buffer rowScales, Buffer results, int kBlocks, int blocks) => new()
    {
        RowsMap = TensorMap.OfRows(Address(rows), (long)kBlocks * Sizes.Capacity, boxRows: 32),
        Weights = weights.Address,
        WeightScales = scales.Address,
        Rows = Address(rows),
        Scales = Address(rowScales),
        Results = Address(results),
        Tiles = Address(Buffer.Tiles),
        TileCount = Address(Buffer.TileCount),
        KBlocks = kBlocks,
        Blocks = blocks,
        Capacity = Sizes.Capacity,
    };

    /// <summary>Queues the whole layer on a stream, after <see cref="Prepare"/>.</summary>
    /// <param name="hidden">[T, H] BF16.</param>
    /// <param name="ids">[T, K] 32-bit.</param>
    /// <param name="expertMap">[global experts], or 0.</param>
    /// <param name="weights">[T, K] FP32.</param>
    /// <param name="output">[T, H] BF16, or FP32 if <paramref name="outputF32"/>.</param>
    internal void Enqueue(ulong hidden, ulong ids, ulong expertMap, ulong weights, ulong output, bool outputF32, nint stream) =>
        Enqueue(new HiddenRows(hidden), new(ids, expertMap, weights), new(output, outputF32, default), _handoff, stream);

    /// <summary>Queues the whole layer on a stream: nothing is copied and nothing waited for. All addresses are on the device.</summary>
    /// <param name="handoff">That only this stream uses; without, or where it is too small, few tokens take steps too.</param>
    internal void Enqueue(HiddenRows hidden, Routes routes, Combined output, Handoff? handoff, nint stream)
    {
        using CudaContext.Scope scope = _kernels.Context.Enter();
        _kernels.RequireHealth(stream);
        CombineArguments combine = Combine(routes, output);
        if (OneLaunchServes(hidden, handoff))
        {
            EnqueueFew(hidden, routes, combine, handoff, stream);
            return;
        }
        EnqueueSteps(hidden, routes, stream);
        (bool many, int blocks) = Sizes.CombineGrid(_kernels.Context.Multiprocessors);
        (many ? _kernels.CombineMany : _kernels.Combine).Launch(combine, blocks, stream);
        After(Step.Combine, stream);
    }

    /// <summary>Queues all steps but the last one, for <see cref="Shared"/>.</summary>
    internal void EnqueueExperts(HiddenRows hidden, Routes routes, Handoff? handoff, nint stream)
    {
        using CudaContext.Scope scope = _kernels.Context.Enter();
        _kernels.RequireHealth(stream);
        if (OneLaunchServes(hidden, handoff)) EnqueueFew(hidden, routes, Combine(routes, default), handoff, stream);
        else EnqueueSteps(hidden, routes, stream);
    }

    /// <summary>Checked mode takes a launch per step, so that a fault has one.</summary>
    private bool OneLaunchServes(HiddenRows hidden, [NotNullWhen(true)] Handoff? handoff) =>
        Sizes.TakesOneLaunch && handoff?.SideBytes >= Sizes.Few.HandoffBytes && hidden.Bf16 != 0 && !TakesSteps && !_kernels.ChecksSteps;

    private void EnqueueFew(HiddenRows hidden, Routes routes, in CombineArguments combine, Handoff handoff, nint stream)
    {
        _few.Hidden = hidden.Bf16;
        _few.Ids = routes.Ids;
        _few.ExpertMap = routes.ExpertMap;
        _few.GlobalExperts = GlobalExperts(routes.ExpertMap);
        _few.Handoff = handoff.Address;
        _few.HandoffBytes = (ulong)handoff.SideBytes;
        _few.Combine = combine;
        if (_wide is not null) _wide.Few(_few, stream);
        else _kernels.Few[_few.Activation.Kind].Launch(_few, _kernels.Context.Multiprocessors, stream);
        After(Step.Quantize, stream);
    }

    private void EnqueueSteps(HiddenRows hidden, Routes routes, nint stream)
    {
        Quantize(_shape.RouterWeightOnInput ? Weigh(hidden, routes.Weights, stream) : hidden, routes.Ids, routes.ExpertMap, stream);
        After(Step.Quantize, stream);
        if (Sizes.GemmsShareALaunch && !SplitsGemms && !_kernels.ChecksSteps)
        {
            GateUpDown(stream);
            After(Step.GateUp, stream);
            return;
        }
        GateUp(stream);
        After(Step.GateUp, stream);
        Down(stream);
        After(Step.Down, stream);
    }

    private CombineArguments Combine(Routes routes, Combined output) => new()
    {
        Results = Address(Buffer.Results),
        RowOfSlot = Address(Buffer.RowOfSlot),
        Weights = _shape.RouterWeightOnInput ? 0 : routes.Weights,
        Output = output.Output,
        SharedResults = output.Shared.Results,
        SharedWeights = output.Shared.Weights,
        Tokens = Sizes.Tokens,
        TopK = _shape.TopK,
        HiddenSize = _shape.Hidden,
        Capacity = Sizes.Capacity,
        OutputF32 = output.IsF32 ? 1 : 0,
        SharedCapacity = output.Shared.Capacity,
    };

    private int GlobalExperts(ulong expertMap) => expertMap == 0 ? _shape.Experts : _shape.GlobalExperts;

    /// <summary>What this call left for another one's last step, when every token passed its only expert.</summary>
    /// <param name="weights">[T] FP32, or 0 for ones.</param>
    internal SharedRows Shared(ulong weights) => new(Address(Buffer.Results), weights, Sizes.Capacity);

    private void After(Step step, nint stream)
    {
        _kernels.Check(step, stream);
        Launched?.Invoke(step);
    }

    /// <summary>Clusters of two blocks.</summary>
    private int Grid => _kernels.Context.Multiprocessors / 2 * 2;

    private GroupedGemms Gemms => Sizes.HasManyRows ? _kernels.ManyRows : _kernels.FewRows;

    private void GateUpDown(nint stream)
    {
        if (_wide is not null) _wide.GateUpDown(stream);
        else _kernels.GateUpDown[_gemms.GateUp.Activation.Kind].Launch(_gemms, Grid, stream, cluster: 2);
    }

    private void GateUp(nint stream)
    {
        if (_wide is not null) _wide.GateUp(stream);
        else Gemms.GateUp[_gemms.GateUp.Activation.Kind].Launch(_gemms, Grid, stream, cluster: 2);
    }

    private void Down(nint stream)
    {
        if (_wide is not null) _wide.Down(stream);
        else Gemms.Down.Launch(_gemms with { Units = _gemms.Units + sizeof(int) }, Grid, stream, cluster: 2);
    }

    /// <summary>Hidden states times their router weights, in the workspace.</summary>
    private HiddenRows Weigh(HiddenRows hidden, ulong weights, nint stream)
    {
        ulong weighed = Address(Buffer.Hidden);
        _kernels.Weigh.Launch(new WeighArguments { Hidden = hidden.Bf16, Weights = weights, Weighed = weighed, Tokens = Sizes.Tokens, HiddenSize = _shape.Hidden },
            checked((int)(((long)Sizes.Tokens * _shape.Hidden + 2047) / 2048)), stream);
        return new(weighed);
    }

    /// <summary>Rows that the caller quantized, to the places that were found.</summary>
    private void PlaceCodes(HiddenRows hidden, ulong rows, ulong scales, nint stream) => _kernels.Codes.Launch(new CodesArguments
    {
        Codes = hidden.Codes,
        CodeScales = hidden.Scales,
        RowOfSlot = Address(Buffer.RowOfSlot),
        Rows = rows,
        Scales = scales,
        Tokens = Sizes.Tokens,
        TopK = _shape.TopK,
        HiddenSize = _shape.Hidden,
        Capacity = Sizes.Capacity,
    }, checked((int)(((long)Sizes.Tokens * Sizes.HiddenBlocks * 8 + 255) / 256)), stream);

    private void Quantize(HiddenRows hidden, ulong ids, ulong expertMap, nint stream)
    {
        if (_wide is not null)
        {
            _wide.Permute(hidden, ids, expertMap, stream);
            return;
        }
        int multiprocessors = _kernels.Context.Multiprocessors;
        bool longRuns = hidden.Codes == 0 && Sizes.HasLongRuns(multiprocessors); // what they gain is in writing rows
        (int blocks, int tokensPerBlock, int shared) = longRuns ? Sizes.RunsGrid(multiprocessors) : Sizes.QuantizeGrid(multiprocessors);
        CudaKernel kernel = longRuns ? _kernels.QuantizeRuns : _shape.Hidden % DevicePlan.WholeChunk == 0 ? _kernels.Quantize : _kernels.QuantizeRagged;
        var arguments = new QuantizeArguments
        {
            Hidden = hidden.Bf16,
            Ids = ids,
            ExpertMap = expertMap,
            Rows = Address(Buffer.Rows),
            Scales = Address(Buffer.RowScales),
            RowOfSlot = Address(Buffer.RowOfSlot),
            Tiles = Address(Buffer.Tiles),
            TileCount = Address(Buffer.TileCount),
            Tokens = Sizes.Tokens,
            TopK = _shape.TopK,
            HiddenSize = hidden.Codes == 0 ? _shape.Hidden : 0, // then only places are found
            Experts = _shape.Experts,
            Capacity = Sizes.Capacity,
            TokensPerBlock = tokensPerBlock,
            PowerOfTwo = _shape.PowerOfTwoScales ? 1 : 0,
            GlobalExperts = GlobalExperts(expertMap),
        };
        WriteRows(arguments);
        if (Sizes.RowBlocks == Sizes.HiddenBlocks) return;
        ulong rows = (ulong)Sizes.HiddenBlocks * (ulong)Sizes.Capacity; // the second half like the first: GateUp passes over both
        arguments.Rows += rows * 128;
        arguments.Scales += rows * sizeof(float);
        WriteRows(arguments);

        void WriteRows(in QuantizeArguments arguments)
        {
            kernel.Launch(arguments, blocks, stream, dynamicShared: shared);
            if (hidden.Codes != 0) PlaceCodes(hidden, arguments.Rows, arguments.Scales, stream);
        }
    }

    /// <summary>For tests: the first steps with BF16 results of GateUp, before the activation.</summary>
    internal void EnqueueGateUpPlain(ulong hidden, ulong ids, ulong expertMap, ulong results)
    {
        using CudaContext.Scope scope = _kernels.Context.Enter();
        Quantize(new HiddenRows(hidden), ids, expertMap, Stream.Raw);
        Gemms.GateUpPlain.Launch(_gemms with { GateUp = _gemms.GateUp with { Results = results } }, Grid, Stream.Raw, cluster: 2);
    }

    /// <summary>Bytes on the device that a call with host spans takes beside the weights.</summary>
    internal static long HostBytes(ExpertsShape shape, int tokens, WorkspacePlan scratch) => new DevicePlan(shape, tokens).Bytes(scratch) + new Inputs(shape, tokens).Bytes;

    /// <summary>Copies a call's inputs to the device, runs it and copies the output back; some tokens at a time where the budget says so.</summary>
    internal void Run(in ExpertsCall call, int chunk)
    {
        for (int first = 0; first < call.Tokens; first += chunk) Run(call, first, Math.Min(chunk, call.Tokens - first));
    }

    private void Run(in ExpertsCall call, int first, int tokens)
    {
        Prepare(tokens);
        int h = _shape.Hidden, k = _shape.TopK;
        var at = new Inputs(_shape, tokens);
        if (_inputs is null || _inputs.Bytes < at.Bytes)
        {
            _inputs?.Dispose();
            _inputs = null;
            _inputs = new DeviceBuffer(_kernels.Context, at.Bytes, $"inputs and outputs of {tokens} tokens");
        }
        if (call.Hidden.IsEmpty)
        {
            int groups = Formats.Blocks(h, _shape.Group);
            _inputs.Upload(call.QuantizedHidden.Slice(first * h, tokens * h), Stream);
            if (_shape.Format == WeightFormat.MxFp8) _inputs.Upload(call.HiddenScalesE8M0.Slice(first * groups, tokens * groups), Stream, at.Scales);
            else _inputs.Upload(call.HiddenScales.Slice(first * groups, tokens * groups), Stream, at.Scales);
        }
        else
        {
            _inputs.Upload(call.Hidden.Slice(first * h, tokens * h), Stream);
        }
        _inputs.Upload(call.LocalIds.Slice(first * k, tokens * k), Stream, at.Ids);
        _inputs.Upload(call.Weights.Slice(first * k, tokens * k), Stream, at.Weights);
        ulong start = _inputs.Address;
        HiddenRows hidden = call.Hidden.IsEmpty ? new(0, start, start + (ulong)at.Scales) : new(start);
        Enqueue(hidden, new(start + (ulong)at.Ids, 0, start + (ulong)at.Weights), new(start + (ulong)at.Output, call.Output.IsEmpty, default), _handoff, Stream.Raw);
        if (call.Output.IsEmpty) _inputs.Download(call.OutputF32.Slice(first * h, tokens * h), Stream, at.Output);
        else _inputs.Download(call.Output.Slice(first * h, tokens * h), Stream, at.Output);
    }

    /// <summary>Where the copies of a call's spans lie, behind one another.</summary>
    private readonly struct Inputs(ExpertsShape shape, int tokens)
    {
        public long Scales { get; } = Padded((long)tokens * shape.Hidden); // behind codes, where the caller quantized
        public long Ids => Math.Max(Padded(2L * tokens * shape.Hidden), Scales + Padded(4L * tokens * Formats.Blocks(shape.Hidden, 128)));
        public long Weights => Ids + Padded(4L * tokens * shape.TopK);
        public long Output => Weights + Padded(4L * tokens * shape.TopK);
        public long Bytes => Output + Padded(4L * tokens * shape.Hidden);

        private static long Padded(long bytes) => (bytes + 255) / 256 * 256;
    }

    public void Dispose()
    {
        _workspace?.Dispose();
        _inputs?.Dispose();
        _handoff?.Dispose();
        _stream?.Dispose();
    }
}

/// <summary>Results of the shared experts on the device: row t is token t's. Without results there are none.</summary>
internal readonly record struct SharedRows(ulong Results, ulong Weights, int Capacity);

/// <summary>Hidden states on the device: [T, H] BF16, or E4M3 codes [T, H] with scales [T, ⌈H/128⌉] FP32, of MXFP8 [T, ⌈H/32⌉] E8M0.</summary>
internal readonly record struct HiddenRows(ulong Bf16, ulong Codes = 0, ulong Scales = 0);

/// <summary>Where tokens go, on the device: ids [T, K], a map of global experts or 0, weights [T, K] FP32.</summary>
internal readonly record struct Routes(ulong Ids, ulong ExpertMap, ulong Weights);

/// <summary>Output on the device, [T, H] BF16 or FP32, and a shared expert to add.</summary>
internal readonly record struct Combined(ulong Output, bool IsF32, SharedRows Shared);
