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
        Beta = shape.Activation.Kind == ActivationKind.SwigluOai ? shape.Activation.Beta : -0f, // adding it changes nothing, not even a zero's sign
        Kind = shape.Activation.Kind switch
        {
            ActivationKind.SwigluStep => 1,
            ActivationKind.GeluTanh => 2,
            ActivationKind.SwigluOai => 3,
            _ => shape.Activation.Limit is null ? 0 : 3,
        },
        Rounding = shape.Rounding == RoundingMode.Fp32Once ? 1 : 0,
        PowerOfTwo = shape.PowerOfTwoScales ? 1 : 0,
        Divide = shape.Activation.Kind == ActivationKind.SwigluStep ? 1 : 0,
    };
}

/// <summary>The row tiles of one expert, as the device writes them.</summary>
[StructLayout(LayoutKind.Sequential, Size = 32)]
internal struct ExpertTiles
{
    public int Expert, First, Tiles, Row, Rows;
    public uint HandedOn;
}

[StructLayout(LayoutKind.Sequential, Size = 96)]
internal struct QuantizeArguments
{
    public ulong Hidden, Ids, ExpertMap, Rows, Scales, RowOfSlot, Tiles, TileCount;
    public int Tokens, TopK, HiddenSize, Experts, Capacity, TokensPerBlock, PowerOfTwo, GlobalExperts;
}

[StructLayout(LayoutKind.Sequential, Size = 256)]
internal struct GemmArguments
{
    public TensorMap RowsMap;
    public ulong Weights, WeightScales, Rows, Scales, Results, ResultScales, Tiles, TileCount;
    public int KBlocks, Blocks, Capacity, Reserved;
    public ActivationArguments Activation;
}

[StructLayout(LayoutKind.Sequential, Size = 576)]
internal struct GemmsArguments
{
    public GemmArguments GateUp, Down;
    public ulong Units;
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
internal struct WidenArguments
{
    public ulong Codes, Scales, Hidden;
    public int Tokens, HiddenSize;
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
