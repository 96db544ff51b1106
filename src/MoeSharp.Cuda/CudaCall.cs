namespace MoeSharp;

/// <summary>
/// What one call of <see cref="CudaQueue"/> reads and writes: addresses on the queue's GPU, all of memory that stays as it is until the stream has passed the call. T tokens,
/// H hidden, K top-k. Rows of H elements follow one another.
/// </summary>
public readonly record struct CudaCall
{
    /// <summary>T; 0 does nothing.</summary>
    public required int Tokens { get; init; }
    /// <summary>[T, H] BF16 hidden states, at a multiple of 16 bytes.</summary>
    public nint Hidden { get; init; }
    /// <summary>[T, H] E4M3 instead, already quantized, at a multiple of 16 bytes; for FP8 weights with FP8 activations, without shared experts.</summary>
    public nint QuantizedHidden { get; init; }
    /// <summary>Scales of <see cref="QuantizedHidden"/>, row-major: [T, ⌈H/128⌉] FP32, for MXFP8 weights [T, ⌈H/32⌉] bytes of E8M0.</summary>
    public nint HiddenScales { get; init; }
    /// <summary>[T, K] 32-bit expert ids; any id that is no expert's (-1, for one) means none. Only the device reads them.</summary>
    public nint TopkIds { get; init; }
    /// <summary>[T, K] FP32 router weights.</summary>
    public nint TopkWeights { get; init; }
    /// <summary>[global experts] 32-bit: the local id of each global id, -1 where another rank has it. 0 when all experts are local.</summary>
    public nint ExpertMap { get; init; }
    /// <summary>[T, H] BF16, at a multiple of 16 bytes; written completely. Exactly one of the two outputs is given.</summary>
    public nint Output { get; init; }
    /// <summary>[T, H] FP32: the sums before their last rounding, at a multiple of 16 bytes.</summary>
    public nint OutputF32 { get; init; }

    /// <summary>Some of the tokens.</summary>
    internal CudaCall Slice(int first, int tokens, ExpertsShape shape) => this with
    {
        Tokens = tokens,
        Hidden = At(Hidden, 2L * first * shape.Hidden),
        QuantizedHidden = At(QuantizedHidden, (long)first * shape.Hidden),
        HiddenScales = At(HiddenScales, (long)first * Formats.Blocks(shape.Hidden, shape.Group) * ScaleBytes(shape)),
        TopkIds = At(TopkIds, 4L * first * shape.TopK),
        TopkWeights = At(TopkWeights, 4L * first * shape.TopK),
        Output = At(Output, 2L * first * shape.Hidden),
        OutputF32 = At(OutputF32, 4L * first * shape.Hidden),
    };

    /// <summary>Throws unless everything is there, aligned, and memory of this GPU.</summary>
    internal void Check(ExpertsShape shape, CudaContext context)
    {
        CheckHidden(shape, context);
        DevicePointer.Require(context, TopkIds, 4, "topk_ids");
        DevicePointer.Require(context, TopkWeights, 4, "topk_weights");
        if (ExpertMap != 0) DevicePointer.Require(context, ExpertMap, 4, "expert_map");
        else if (shape.GlobalExperts != shape.Experts)
            throw new ArgumentException($"{shape.Experts} of {shape.GlobalExperts} experts are local, so expert_map is needed to tell which.");
        if (Output != 0 && OutputF32 != 0) throw new ArgumentException("Give one output, BF16 or FP32, not both.");
        DevicePointer.Require(context, Output == 0 ? OutputF32 : Output, 16, "output");
    }

    private void CheckHidden(ExpertsShape shape, CudaContext context)
    {
        if (QuantizedHidden == 0)
        {
            DevicePointer.Require(context, Hidden, 16, "hidden_states");
            return;
        }
        if (Hidden != 0) throw new ArgumentException("Give hidden states in BF16 or quantized, not both.");
        if (shape.Activations != ActivationFormat.Fp8)
            throw new ArgumentException("The experts were built for BF16 activations but quantized hidden states were given; give BF16 or build with FP8 activations.");
        if (shape.RouterWeightOnInput)
            throw new ArgumentException("Router weights go onto the input before quantization, so quantized hidden states cannot be used with RouterWeightOnInput.");
        DevicePointer.Require(context, QuantizedHidden, 16, "quantized hidden_states");
        DevicePointer.Require(context, HiddenScales, ScaleBytes(shape), "scales of hidden_states");
    }

    private static int ScaleBytes(ExpertsShape shape) => (shape.Format == WeightFormat.MxFp8 ? ScaleType.E8M0 : ScaleType.F32).Bytes();

    private static nint At(nint pointer, long bytes) => pointer == 0 ? 0 : (nint)(pointer + bytes);
}
