using System.Runtime.InteropServices;

namespace MoeSharp;

// Twins of the structs in kernels/include/arguments.cuh, field by field; tests hold sizes and offsets to those the kernels assert.

[StructLayout(LayoutKind.Sequential, Size = 32)]
internal struct ActivationArguments
{
    public float Limit, Alpha, Beta;
    public int Kind, Rounding, PowerOfTwo, Divide;

    internal static ActivationArguments From(ExpertsShape shape) => new()
    {
        Limit = shape.Activation.Limit is { } limit ? BFloat16.FromSingle(limit).ToSingle() : float.PositiveInfinity,
        Alpha = shape.Activation.Kind == ActivationKind.SwigluOai ? shape.Activation.Alpha : 1f,
        Beta = shape.Activation.Kind == ActivationKind.SwigluOai ? shape.Activation.Beta : 0f,
        Kind = shape.Activation.Kind switch { ActivationKind.SwigluStep => 1, ActivationKind.GeluTanh => 2, _ => 0 },
        Rounding = shape.Rounding == RoundingMode.Fp32Once ? 1 : 0,
        PowerOfTwo = shape.PowerOfTwoScales ? 1 : 0,
        Divide = shape.Activation.Kind == ActivationKind.SwigluStep ? 1 : 0,
    };
}

/// <summary>All row tiles of one expert, as the device writes them.</summary>
[StructLayout(LayoutKind.Sequential, Size = 32)]
internal struct ExpertTiles
{
    public int Expert, First, Groups, Row, Rows;
}

[StructLayout(LayoutKind.Sequential, Size = 112)]
internal struct QuantizeArguments
{
    public ulong Hidden, Ids, ExpertMap, Rows, Scales, RowOfSlot, Tiles, TileCount;
    public int Tokens, TopK, HiddenSize, Experts, Capacity, TokensPerBlock, PowerOfTwo, GlobalExperts, TilesPerGroup;
}

[StructLayout(LayoutKind.Sequential, Size = 384)]
internal struct GemmArguments
{
    public TensorMap RowsMap, WeightsMap;
    public ulong Weights, WeightScales, Rows, Scales, Results, ResultScales, Tiles, TileCount;
    public int KBlocks, Blocks, Capacity, Reserved;
    public ActivationArguments Activation;
}

[StructLayout(LayoutKind.Sequential, Size = 80)]
internal struct CombineArguments
{
    public ulong Results, RowOfSlot, Weights, Output, SharedResults, SharedWeights;
    public int Tokens, TopK, HiddenSize, Capacity, OutputF32, SharedCapacity;
}

[StructLayout(LayoutKind.Sequential, Size = 32)]
internal struct WeighArguments
{
    public ulong Hidden, Weights, Weighed;
    public int Tokens, HiddenSize;
}

[StructLayout(LayoutKind.Sequential, Size = 64)]
internal struct CodesArguments
{
    public ulong Codes, CodeScales, RowOfSlot, Rows, Scales;
    public int Tokens, TopK, HiddenSize, Capacity;
}

[StructLayout(LayoutKind.Sequential, Size = 32)]
internal struct SharedGateArguments
{
    public ulong Hidden, Gate, Weights;
    public int Tokens, HiddenSize;
}

[StructLayout(LayoutKind.Sequential, Size = 48)]
internal struct PrepareArguments
{
    public ulong First, Second, To, NaN;
    public int Rows, Columns, Blocks, KBlocks;
}
