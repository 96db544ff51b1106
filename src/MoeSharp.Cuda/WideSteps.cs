namespace MoeSharp;

/// <summary>The steps before Combine on the wide kernels: argument structs of calls with one number of tokens.</summary>
internal sealed class WideSteps
{
    private readonly KernelSet _kernels;
    private readonly ExpertsShape _shape;
    private readonly DevicePlan _sizes;
    private readonly CudaKernel _gateUpKernel, _downKernel, _fewKernel;
    private readonly WidePermuteArguments _permute;
    private readonly WideGemmArguments _gateUp, _down;
    private readonly ulong _widened;

    /// <param name="address">Of a buffer of the plan.</param>
    internal WideSteps(KernelSet kernels, DeviceWeights weights, ExpertsShape shape, DevicePlan sizes, Func<Buffer, ulong> address)
    {
        _kernels = kernels;
        _shape = shape;
        _sizes = sizes;
        int kernel = weights.HasLargeScales ? WideKernels.LargeScales : WideKernels.IndexOf(shape.Format);
        _gateUpKernel = kernels.Wide.GateUp[kernel];
        _downKernel = kernels.Wide.Down[kernel];
        _fewKernel = kernels.Wide.Few[kernel];
        _widened = address(Buffer.Hidden);
        int quantize = shape.Activations == ActivationFormat.Fp8 ? 1 : 0;
        _permute = new()
        {
            Rows = address(Buffer.Rows),
            RowOfSlot = address(Buffer.RowOfSlot),
            Tiles = address(Buffer.Tiles),
            TileCount = address(Buffer.TileCount),
            Tokens = sizes.Tokens,
            TopK = shape.TopK,
            HiddenSize = shape.Hidden,
            Experts = shape.Experts,
            Capacity = sizes.Capacity,
            TokensPerBlock = sizes.QuantizeGrid(kernels.Context.Multiprocessors).TokensPerBlock,
            Quantize = quantize,
            TileRows = DevicePlan.WideTileRows(shape.Format),
        };
        _gateUp = Gemm(weights.GateUp, weights.GateUpScales, weights.GateUpBiases, address(Buffer.Rows), address(Buffer.Intermediate));
        _gateUp.KBlocks = sizes.RowBlocks;
        _gateUp.Blocks = 2 * sizes.IntermediateBlocks;
        _gateUp.Quantize = quantize;
        _gateUp.Activation = ActivationArguments.From(shape);
        _down = Gemm(weights.Down, weights.DownScales, weights.DownBiases, address(Buffer.Intermediate), address(Buffer.Results));
        _down.KBlocks = sizes.IntermediateBlocks;
        _down.Blocks = sizes.HiddenBlocks;
    }

    private WideGemmArguments Gemm(DeviceRange weights, DeviceRange scales, DeviceRange biases, ulong rows, ulong results) => new()
    {
        Weights = weights.Address,
        Scales = scales.Address,
        Biases = biases.OrNull,
        Rows = rows,
        Results = results,
        Tiles = _permute.Tiles,
        TileCount = _permute.TileCount,
        Capacity = _sizes.Capacity,
    };

    /// <summary>MXFP8 hidden states that the caller quantized as [T, H] BF16.</summary>
    private ulong Widen(HiddenRows hidden, nint stream)
    {
        var arguments = new WidenArguments { Codes = hidden.Codes, Scales = hidden.Scales, Hidden = _widened, Tokens = _sizes.Tokens, HiddenSize = _shape.Hidden };
        long pairs = (long)_sizes.Tokens * ((_shape.Hidden + 1) / 2);
        _kernels.Wide.Widen.Launch(arguments, checked((int)((pairs + 255) / 256)), stream);
        return _widened;
    }

    /// <summary>Quantize (where activations are FP8) and Permute.</summary>
    internal void Permute(HiddenRows hidden, ulong ids, ulong expertMap, nint stream)
    {
        WidePermuteArguments arguments = _permute with
        {
            Hidden = hidden.Codes == 0 ? hidden.Bf16 : Widen(hidden, stream),
            Ids = ids,
            ExpertMap = expertMap,
            GlobalExperts = expertMap == 0 ? _shape.Experts : _shape.GlobalExperts,
        };
        (int blocks, _, int shared) = _sizes.QuantizeGrid(_kernels.Context.Multiprocessors);
        _kernels.Wide.Permute.Launch(arguments, blocks, stream, dynamicShared: shared);
        if (_sizes.RowBlocks == _sizes.HiddenBlocks) return;
        arguments.Rows += (ulong)_sizes.HiddenBlocks * (ulong)_sizes.Capacity * 256; // the second half like the first: GateUp passes over both
        _kernels.Wide.Permute.Launch(arguments, blocks, stream, dynamicShared: shared);
    }

    internal void GateUp(nint stream) => _gateUpKernel.Launch(_gateUp, _kernels.Context.Multiprocessors, stream);

    /// <summary>All steps of few tokens.</summary>
    internal void Few(in FewArguments arguments, nint stream) => _fewKernel.Launch(arguments, _kernels.Context.Multiprocessors, stream);

    internal void Down(nint stream) => _downKernel.Launch(_down, _kernels.Context.Multiprocessors, stream);
}
