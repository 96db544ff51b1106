namespace MoeSharp;

/// <summary>Stream, workspace and argument structs of calls with one number of tokens at a time; the steps are queued in four launches.</summary>
internal sealed class DeviceCall : IDisposable
{
    private readonly KernelSet _kernels;
    private readonly DeviceWeights _weights;
    private readonly ExpertsShape _shape;
    private readonly WorkspacePlan _plan = new();
    private DeviceBuffer? _workspace, _inputs;
    private GemmArguments _gateUp, _down;
    private int _tokens;

    internal DeviceCall(KernelSet kernels, DeviceWeights weights, ExpertsShape shape)
    {
        _kernels = kernels;
        _weights = weights;
        _shape = shape;
        Stream = new CudaStream(kernels.Context);
    }

    internal CudaStream Stream { get; }

    internal WorkspacePlan Plan => _plan;

    internal DeviceBuffer Workspace => _workspace!;

    internal DevicePlan Sizes { get; private set; }

    /// <summary>Device address of a buffer of the plan.</summary>
    internal ulong Address(Buffer buffer) => _workspace!.Address + (ulong)_plan.Rows[(int)buffer].Offset;

    /// <summary>Plans for this many tokens and makes room.</summary>
    internal void Prepare(int tokens)
    {
        if (tokens == _tokens) return;
        using CudaContext.Scope scope = _kernels.Context.Enter();
        Sizes = new DevicePlan(_shape, tokens);
        _plan.Clear();
        Sizes.AddTo(_plan);
        if (_workspace is null || _workspace.Bytes < _plan.Bytes)
        {
            _workspace?.Dispose();
            _workspace = null;
            _tokens = 0;
            _workspace = new DeviceBuffer(_kernels.Context, _plan.Bytes, $"the workspace of {tokens} tokens");
        }
        _gateUp = Gemm(_weights.GateUp, _weights.GateUpScales, Buffer.Rows, Buffer.RowScales, Buffer.Intermediate, Sizes.RowBlocks, 2 * Sizes.IntermediateBlocks);
        _gateUp.ResultScales = Address(Buffer.IntermediateScales);
        _gateUp.Activation = ActivationArguments.From(_shape);
        _down = Gemm(_weights.Down, _weights.DownScales, Buffer.Intermediate, Buffer.IntermediateScales, Buffer.Results, Sizes.IntermediateBlocks, Sizes.HiddenBlocks);
        _tokens = tokens;
    }

    private GemmArguments Gemm(DeviceRange weights, DeviceRange scales, Buffer rows, Buffer rowScales, Buffer results, int kBlocks, int blocks) => new()
    {
        RowsMap = TensorMap.OfRows(Address(rows), (long)kBlocks * Sizes.Capacity, boxRows: 32),
        WeightsMap = TensorMap.OfRows(weights.Address, weights.Bytes / 128, boxRows: 64),
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

    /// <summary>Queues the whole layer on a stream: nothing is copied and nothing waited for. All addresses are on the device.</summary>
    /// <param name="hidden">[T, H] BF16.</param>
    /// <param name="ids">[T, K] 32-bit.</param>
    /// <param name="expertMap">[global experts], or 0.</param>
    /// <param name="weights">[T, K] FP32.</param>
    /// <param name="output">[T, H] BF16, or FP32 if <paramref name="outputF32"/>.</param>
    internal void Enqueue(ulong hidden, ulong ids, ulong expertMap, ulong weights, ulong output, bool outputF32, nint stream)
    {
        using CudaContext.Scope scope = _kernels.Context.Enter();
        Quantize(hidden, ids, expertMap, stream);
        int grid = _kernels.Context.Multiprocessors / 2 * 2;
        _kernels.GateUp[_gateUp.Activation.Kind].Launch(_gateUp, grid, stream, cluster: 2);
        _kernels.Down.Launch(_down, grid, stream, cluster: 2);
        long chunks = (long)Sizes.Tokens * ((_shape.Hidden + 7) / 8);
        _kernels.Combine.Launch(new CombineArguments
        {
            Results = Address(Buffer.Results),
            RowOfSlot = Address(Buffer.RowOfSlot),
            Weights = weights,
            Output = output,
            Tokens = Sizes.Tokens,
            TopK = _shape.TopK,
            HiddenSize = _shape.Hidden,
            Capacity = Sizes.Capacity,
            OutputF32 = outputF32 ? 1 : 0,
        }, checked((int)((chunks + 255) / 256)), stream);
    }

    private void Quantize(ulong hidden, ulong ids, ulong expertMap, nint stream)
    {
        (int blocks, int tokensPerBlock) = Sizes.QuantizeGrid(_kernels.Context.Multiprocessors);
        _kernels.Quantize.Launch(new QuantizeArguments
        {
            Hidden = hidden,
            Ids = ids,
            ExpertMap = expertMap,
            Rows = Address(Buffer.Rows),
            Scales = Address(Buffer.RowScales),
            RowOfSlot = Address(Buffer.RowOfSlot),
            Tiles = Address(Buffer.Tiles),
            TileCount = Address(Buffer.TileCount),
            Tokens = Sizes.Tokens,
            TopK = _shape.TopK,
            HiddenSize = _shape.Hidden,
            Experts = _shape.Experts,
            Capacity = Sizes.Capacity,
            TokensPerBlock = tokensPerBlock,
            PowerOfTwo = _shape.PowerOfTwoScales ? 1 : 0,
            GlobalExperts = expertMap == 0 ? _shape.Experts : _shape.GlobalExperts,
            TilesPerGroup = 1,
        }, blocks, stream, dynamicShared: 4 * (3 * _shape.Experts + tokensPerBlock * _shape.TopK));
        if (Sizes.RowBlocks == Sizes.HiddenBlocks) return;
        Repeat(Buffer.Rows, 128, stream);
        Repeat(Buffer.RowScales, sizeof(float), stream);
    }

    /// <summary>The second half of a buffer becomes like the first: GateUp passes over it twice.</summary>
    private void Repeat(Buffer buffer, int bytesPerRow, nint stream)
    {
        long half = (long)Sizes.HiddenBlocks * Sizes.Capacity * bytesPerRow;
        Native.Check(Native.cuMemcpyDtoDAsync_v2(Address(buffer) + (ulong)half, Address(buffer), (nuint)half, stream));
    }

    /// <summary>For tests: the first steps with BF16 results of GateUp, before the activation.</summary>
    internal void EnqueueGateUpPlain(ulong hidden, ulong ids, ulong expertMap, ulong results)
    {
        using CudaContext.Scope scope = _kernels.Context.Enter();
        Quantize(hidden, ids, expertMap, Stream.Raw);
        _kernels.GateUpPlain.Launch(_gateUp with { Results = results }, _kernels.Context.Multiprocessors / 2 * 2, Stream.Raw, cluster: 2);
    }

    /// <summary>Copies a call's inputs to the device, runs it and copies the output back.</summary>
    internal void Run(in ExpertsCall call)
    {
        Prepare(call.Tokens);
        long hiddenBytes = Padded(2L * call.Hidden.Length), slotBytes = Padded(4L * call.LocalIds.Length), outputBytes = Padded(4L * call.Hidden.Length);
        long needed = hiddenBytes + 2 * slotBytes + outputBytes;
        if (_inputs is null || _inputs.Bytes < needed)
        {
            _inputs?.Dispose();
            _inputs = null;
            _inputs = new DeviceBuffer(_kernels.Context, needed, $"inputs and outputs of {call.Tokens} tokens");
        }
        _inputs.Upload(call.Hidden, Stream);
        _inputs.Upload(call.LocalIds, Stream, hiddenBytes);
        _inputs.Upload(call.Weights, Stream, hiddenBytes + slotBytes);
        ulong ids = _inputs.Address + (ulong)hiddenBytes, weights = ids + (ulong)slotBytes, output = weights + (ulong)slotBytes;
        Enqueue(_inputs.Address, ids, 0, weights, output, call.Output.IsEmpty, Stream.Raw);
        if (call.Output.IsEmpty) _inputs.Download(call.OutputF32, Stream, hiddenBytes + 2 * slotBytes);
        else _inputs.Download(call.Output, Stream, hiddenBytes + 2 * slotBytes);
    }

    private static long Padded(long bytes) => (bytes + 255) / 256 * 256;

    public void Dispose()
    {
        _workspace?.Dispose();
        _inputs?.Dispose();
        Stream.Dispose();
    }
}
