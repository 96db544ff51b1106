using System.Runtime.InteropServices;

namespace MoeSharp;

// Twins of the structs in kernels/include/wide_arguments.cuh, field by field; tests hold sizes and offsets to those the kernels assert.

/// <summary>The work on one expert, as the device lists it.</summary>
[StructLayout(LayoutKind.Sequential, Size = 32)]
internal struct WideTiles
{
    public int Expert, First, Count, Row, Rows;
    public uint HandedOn;
}

[StructLayout(LayoutKind.Sequential, Size = 96)]
internal struct WidePermuteArguments
{
    public ulong Hidden, Ids, ExpertMap, Rows, RowOfSlot, Tiles, TileCount;
    public int Tokens, TopK, HiddenSize, Experts, Capacity, TokensPerBlock, GlobalExperts, Quantize, TileRows;
}

[StructLayout(LayoutKind.Sequential, Size = 112)]
internal struct WideGemmArguments
{
    public ulong Weights, Scales, Biases, Rows, Results, Tiles, TileCount;
    public int KBlocks, Blocks, Capacity, Quantize, HandsOn;
    private readonly int _reserved;
    public ActivationArguments Activation;
}

[StructLayout(LayoutKind.Sequential, Size = 240)]
internal struct WideGemmsArguments
{
    public WideGemmArguments GateUp, Down;
    public ulong Units;
}

[StructLayout(LayoutKind.Sequential, Size = 80)]
internal struct WidePrepareArguments
{
    public ulong First, Second, FirstScales, SecondScales, To, Found;
    public int Rows, Columns, Blocks, KBlocks, Format;
}
