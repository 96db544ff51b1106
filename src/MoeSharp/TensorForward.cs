using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>
/// The doors for callers that hold tensors: shapes are checked instead of lengths. Rows must lie one after the other without gaps, as a slice of whole
/// tokens does; a slice of columns or a transposed tensor is refused, since copying it here would hide an allocation.
/// </summary>
public static class TensorForward
{
    /// <summary>Routes, runs the routed and the shared experts, and adds up.</summary>
    /// <param name="layer">What runs.</param>
    /// <param name="hidden">[T, H].</param>
    /// <param name="output">[T, H]; written completely.</param>
    /// <param name="workspace">Null rents one.</param>
    /// <exception cref="ArgumentException">A shape is wrong or rows have gaps; nothing was computed.</exception>
    public static void Forward(this MoeLayer layer, in ReadOnlyTensorSpan<BFloat16> hidden, in TensorSpan<BFloat16> output, Workspace? workspace = null)
    {
        ArgumentNullException.ThrowIfNull(layer);
        nint tokens = Tokens(hidden);
        layer.Forward(Dense(hidden, tokens, layer.HiddenSize, "hidden_states"), Dense(output, tokens, layer.HiddenSize, "output"), workspace);
    }

    /// <summary>Same, with FP32 output: the sums before their last rounding.</summary>
    public static void Forward(this MoeLayer layer, in ReadOnlyTensorSpan<BFloat16> hidden, in TensorSpan<float> output, Workspace? workspace = null)
    {
        ArgumentNullException.ThrowIfNull(layer);
        nint tokens = Tokens(hidden);
        layer.Forward(Dense(hidden, tokens, layer.HiddenSize, "hidden_states"), Dense(output, tokens, layer.HiddenSize, "output"), workspace);
    }

    /// <summary>Runs the routed experts under a routing of the caller's, all experts local.</summary>
    /// <param name="experts">What runs.</param>
    /// <param name="hidden">[T, H].</param>
    /// <param name="topkIds">[T, K]; -1 means no expert.</param>
    /// <param name="topkWeights">[T, K].</param>
    /// <param name="output">[T, H]; written completely.</param>
    /// <param name="workspace">Null rents one.</param>
    /// <exception cref="ArgumentException">A shape is wrong, rows have gaps or an id is out of range; nothing was computed.</exception>
    public static void Forward(
        this FusedExperts experts, in ReadOnlyTensorSpan<BFloat16> hidden, in ReadOnlyTensorSpan<int> topkIds, in ReadOnlyTensorSpan<float> topkWeights,
        in TensorSpan<BFloat16> output, Workspace? workspace = null)
    {
        ArgumentNullException.ThrowIfNull(experts);
        nint tokens = Tokens(hidden);
        experts.Forward(Input(experts, hidden, topkIds, topkWeights), Dense(output, tokens, experts.HiddenSize, "output"), workspace);
    }

    /// <summary>Same, with FP32 output.</summary>
    public static void Forward(
        this FusedExperts experts, in ReadOnlyTensorSpan<BFloat16> hidden, in ReadOnlyTensorSpan<int> topkIds, in ReadOnlyTensorSpan<float> topkWeights,
        in TensorSpan<float> output, Workspace? workspace = null)
    {
        ArgumentNullException.ThrowIfNull(experts);
        nint tokens = Tokens(hidden);
        experts.Forward(Input(experts, hidden, topkIds, topkWeights), Dense(output, tokens, experts.HiddenSize, "output"), workspace);
    }

    private static ExpertsInput Input(
        FusedExperts experts, in ReadOnlyTensorSpan<BFloat16> hidden, in ReadOnlyTensorSpan<int> topkIds, in ReadOnlyTensorSpan<float> topkWeights)
    {
        nint tokens = Tokens(hidden);
        return new()
        {
            Hidden = Dense(hidden, tokens, experts.HiddenSize, "hidden_states"),
            TopkIds = Dense(topkIds, tokens, experts.Shape.TopK, "topk_ids"),
            TopkWeights = Dense(topkWeights, tokens, experts.Shape.TopK, "topk_weights"),
        };
    }

    private static nint Tokens(in ReadOnlyTensorSpan<BFloat16> hidden) => hidden.Rank > 0 ? hidden.Lengths[0] : 0;

    private static ReadOnlySpan<T> Dense<T>(in ReadOnlyTensorSpan<T> tensor, nint rows, int columns, string name)
    {
        Check(tensor.Lengths, tensor.Strides, rows, columns, name);
        return MemoryMarshal.CreateReadOnlySpan(in tensor.GetPinnableReference(), checked((int)(rows * columns)));
    }

    private static Span<T> Dense<T>(in TensorSpan<T> tensor, nint rows, int columns, string name)
    {
        Check(tensor.Lengths, tensor.Strides, rows, columns, name);
        return MemoryMarshal.CreateSpan(ref tensor.GetPinnableReference(), checked((int)(rows * columns)));
    }

    private static void Check(ReadOnlySpan<nint> lengths, ReadOnlySpan<nint> strides, nint rows, int columns, string name)
    {
        if (lengths.Length != 2 || lengths[0] != rows || lengths[1] != columns)
            throw new ArgumentException($"{name} has shape {Text(lengths)} but [{rows}, {columns}] is needed.", name);
        bool dense = (columns == 1 || rows == 0 || strides[1] == 1) && (rows <= 1 || strides[0] == columns);
        if (!dense) throw new ArgumentException($"{name} has strides {Text(strides)} but its rows must follow one another ([{columns}, 1]); give a dense copy.", name);
    }

    private static string Text(ReadOnlySpan<nint> values) => $"[{string.Join(", ", values.ToArray())}]";
}
