using System.Numerics.Tensors;
using MoeSharp;

namespace OwnRouter;

/// <summary>Softmax over all experts, the K best, renormalised: what Qwen3-MoE does, in the plainest way. Yours would do what the library's routers do not.</summary>
internal sealed class SoftmaxRouter(float[] weight, int experts, int topK)
{
    private readonly int _hiddenSize = weight.Length / experts;
    private readonly float[] _row = new float[weight.Length / experts], _scores = new float[experts];

    /// <param name="hidden">[T, H].</param>
    /// <param name="ids">[T, K].</param>
    /// <param name="weights">[T, K].</param>
    public void Route(ReadOnlySpan<BFloat16> hidden, Span<int> ids, Span<float> weights)
    {
        for (int t = 0; t < hidden.Length / _hiddenSize; t++)
        {
            for (int i = 0; i < _hiddenSize; i++) _row[i] = hidden[t * _hiddenSize + i];
            for (int e = 0; e < experts; e++) _scores[e] = TensorPrimitives.Dot(_row, weight.AsSpan(e * _hiddenSize, _hiddenSize));
            TensorPrimitives.SoftMax<float>(_scores, _scores);
            Span<float> chosen = weights.Slice(t * topK, topK);
            for (int k = 0; k < topK; k++)
            {
                int best = TensorPrimitives.IndexOfMax<float>(_scores);
                ids[t * topK + k] = best;
                chosen[k] = _scores[best];
                _scores[best] = -1;
            }
            TensorPrimitives.Divide(chosen, TensorPrimitives.Sum<float>(chosen), chosen);
        }
    }
}
