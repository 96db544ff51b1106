namespace MoeSharp;

/// <summary>
/// What one call to <see cref="FusedExperts.Forward(in ExpertsInput, Span{BFloat16}, Workspace?)"/> reads. T tokens, H hidden, K top-k. Give hidden
/// states either in BF16 or quantized with their scales, and ids either as 32-bit or as 64-bit integers.
/// </summary>
public readonly ref struct ExpertsInput
{
    /// <summary>[T, H] hidden states.</summary>
    public ReadOnlySpan<BFloat16> Hidden { get; init; }
    /// <summary>[T, H] hidden states already quantized.</summary>
    public ReadOnlySpan<Float8E4M3> QuantizedHidden { get; init; }
    /// <summary>[T, ⌈H/128⌉] scales of <see cref="QuantizedHidden"/>, row-major, for 128-block formats.</summary>
    public ReadOnlySpan<float> HiddenScales { get; init; }
    /// <summary>[T, ⌈H/32⌉] scales of <see cref="QuantizedHidden"/>, row-major, for MXFP8.</summary>
    public ReadOnlySpan<ScaleE8M0> HiddenScalesE8M0 { get; init; }
    /// <summary>[T, K] expert ids; -1 means no expert.</summary>
    public ReadOnlySpan<int> TopkIds { get; init; }
    /// <summary>[T, K] expert ids as 64-bit integers.</summary>
    public ReadOnlySpan<long> TopkIds64 { get; init; }
    /// <summary>[T, K] router weights.</summary>
    public ReadOnlySpan<float> TopkWeights { get; init; }
    /// <summary>[global experts] local id of each global id, -1 where another rank has it. Empty when all experts are local.</summary>
    public ReadOnlySpan<int> ExpertMap { get; init; }
    /// <summary>[E] rows per local expert, when the caller knows them exactly; checked against the ids.</summary>
    public ReadOnlySpan<int> ExpertCounts { get; init; }
    /// <summary>At most this many threads work on the call, the caller's included, where the backend has threads; 0: all of them. Changes no
    /// bit.</summary>
    public int MaxThreads { get; init; }
}
