using System.Runtime.InteropServices;

namespace MoeSharp;

// Twins of the structs in kernels/include/route_arguments.cuh.

[StructLayout(LayoutKind.Sequential, Size = 48)]
internal struct LogitsArguments
{
    public ulong Hidden, Weight, Bias, Logits;
    public int Tokens, HiddenSize, Stride, Experts;
}

[StructLayout(LayoutKind.Sequential, Size = 80)]
internal struct SelectArguments
{
    public ulong Logits, CorrectionBias, Ids, Weights;
    public int Tokens, Experts, TopK, Scoring, Groups, TopkGroups, Renormalize;
    public float Epsilon, Minimum, Scaling;
    public int WarpWords;
}
