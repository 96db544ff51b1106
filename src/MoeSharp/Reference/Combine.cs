namespace MoeSharp;

/// <summary>Step 7: each token's expert rows, weighted and summed in slot order, FP32 FMA, one rounding.</summary>
internal static class Combine
{
    /// <summary>Writes every element of the output; tokens without a local expert get zeros.</summary>
    /// <param name="rowOfSlot">[T, K]; -1 where dropped.</param>
    /// <param name="down">[R, H].</param>
    public static void Run(ExpertsShape shape, in ExpertsCall call, ReadOnlySpan<int> rowOfSlot, ReadOnlySpan<BFloat16> down)
    {
        int h = shape.Hidden, k = shape.TopK;
        for (int t = 0; t < call.Tokens; t++)
        {
            for (int c = 0; c < h; c++)
            {
                float sum = 0;
                for (int slot = t * k; slot < (t + 1) * k; slot++)
                {
                    if (rowOfSlot[slot] < 0) continue;
                    float weight = shape.RouterWeightOnInput ? 1f : call.Weights[slot];
                    sum = MathF.FusedMultiplyAdd(down[rowOfSlot[slot] * h + c].ToSingle(), weight, sum);
                }
                if (call.OutputF32.IsEmpty) call.Output[t * h + c] = BFloat16.FromSingle(sum);
                else call.OutputF32[t * h + c] = sum;
            }
        }
    }
}
