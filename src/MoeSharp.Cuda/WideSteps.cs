namespace MoeSharp;

/// <summary>The steps before Combine on the wide kernels: argument structs of calls with one number of tokens.</summary>
internal sealed class WideSteps
{
    private readonly KernelSet _kernels;
    private readonly ExpertsShape _shape;
    private readonly DevicePlan _sizes;
    private readonly CudaKernel _gemmsKernel, _fewKernel;
    private readonly WidePermuteArguments _permute;
    private readonly WideGemmsArguments _gemms;
    private readonly ulong _widened;

    /// <param name="address">Of a buffer of the plan.</param>
    internal WideSteps(KernelSet kernels, DeviceWeights weights, ExpertsShape shape, DevicePlan sizes, Func<Buffer, ulong> address)
    {
        _kernels = kernels;
        _shape = shape;
        _sizes = sizes;
        int kernel = weights.HasLargeScales ? WideKernels.LargeScales : WideKernels.IndexOf(shape.Format);
        _gemmsKernel = kernels.Wide.Gemms[kernel];
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
        _gemms.Units = _permute.TileCount + sizeof(int);
        _gemms.GateUp = Gemm(weights.GateUp, weights.GateUpScales, weights.GateUpBiases, address(Buffer.Rows), address(Buffer.Intermediate));
        _gemms.GateUp.KBlocks = sizes.RowBlocks;
        _gemms.GateUp.Blocks = 2 * sizes.IntermediateBlocks;
        _gemms.GateUp.Quantize = quantize;
        _gemms.GateUp.Activation = ActivationArguments.From(shape);
        _gemms.Down = Gemm(weights.Down, weights.DownScales, weights.DownBiases, address(Buffer.Intermediate), address(Buffer.Results));
        _gemms.Down.KBlocks = sizes.IntermediateBlocks;
        _gemms.Down.Blocks = sizes.HiddenBlocks;
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

    internal void GateUpDown(nint stream) => Gemms(_gemms with { GateUp = _gemms.GateUp with { HandsOn = 1 } }, stream);

    internal void GateUp(nint stream) => Gemms(_gemms with { Down = _gemms.Down with { Blocks = 0 } }, stream);

    /// <summary>All steps of few tokens.</summary>
    internal void Few(in FewArguments arguments, nint stream) => _fewKernel.Launch(arguments, _kernels.Context.Multiprocessors, stream);

    internal void Down(nint stream) => Gemms(_gemms with { GateUp = _gemms.GateUp with { Blocks = 0 }, Units = _gemms.Units + sizeof(int) }, stream);

    private void Gemms(in WideGemmsArguments gemms, nint stream) => _gemmsKernel.Launch(gemms, _kernels.Context.Multiprocessors, stream);
}
