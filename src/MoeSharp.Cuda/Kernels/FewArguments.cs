using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>Twin of the struct in kernels/include/few_arguments.cuh; tests hold size and offsets to those the kernel asserts.</summary>
[StructLayout(LayoutKind.Sequential, Size = 256)]
internal struct FewArguments
{
    public ulong Hidden, Ids, ExpertMap, GateUp, GateUpScales, Down, DownScales, Results, Handoff, HandoffBytes;
    public int Experts, GlobalExperts, HiddenBlocks, IntermediateBlocks, PowerOfTwo, RingSlots, Quantize, MostShared;
    public FewHalves Halves;
    public ActivationArguments Activation;
    public CombineArguments Combine;
    public ulong GateUpBiases, DownBiases;
}

/// <summary>Bit n: with n experts units of GateUp have 32 weight rows instead of 64.</summary>
[System.Runtime.CompilerServices.InlineArray(FewPlan.Slots / 32)]
internal struct FewHalves
{
    private uint _bits;
}
