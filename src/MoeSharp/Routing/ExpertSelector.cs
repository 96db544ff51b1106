using System.Diagnostics;

namespace MoeSharp;

/// <summary>From the logits of one token to its K experts and their weights.</summary>
internal sealed class ExpertSelector(RouterOptions options, float[]? correctionBias)
{
    private readonly int _groupSize = options.Experts / options.Groups;

    /// <summary>[E], or empty.</summary>
    public ReadOnlySpan<float> CorrectionBias => correctionBias;

    /// <param name="scores">[E]: logits in, overwritten with scores.</param>
    /// <param name="ids">[K]: in descending order of selection score, the lower index first among equals.</param>
    /// <param name="weights">[K].</param>
    public void Select(Span<float> scores, Span<int> ids, Span<float> weights)
    {
        foreach (ref float logit in scores)
            if (float.IsNaN(logit)) logit = float.NegativeInfinity;
        if (options.Scoring == RouterScoring.Softmax) Softmax(scores);
        else if (options.Scoring == RouterScoring.Sigmoid) Sigmoid(scores);

        if (options.TopkGroups == options.Groups) Pick(scores, 0, options.Experts, 0, ids, weights);
        else PickInBestGroups(scores, ids, weights);

        for (int i = 0; i < ids.Length; i++) weights[i] = scores[ids[i]];
        if (options.Scoring == RouterScoring.TopkSoftmax) Softmax(weights);
        if (options.Renormalize) Renormalize(weights);
        foreach (ref float weight in weights) weight *= options.ScalingFactor;
    }

    private void PickInBestGroups(ReadOnlySpan<float> scores, Span<int> ids, Span<float> picked)
    {
        Span<int> groups = stackalloc int[options.TopkGroups];
        Span<float> best = stackalloc float[options.TopkGroups];
        int count = 0;
        for (int g = 0; g < options.Groups; g++) count = Insert(g, GroupScore(scores, g), count, groups, best);
        groups.Sort(); // ascending experts: ties go to the lowest index
        count = 0;
        foreach (int g in groups) count = Pick(scores, g * _groupSize, (g + 1) * _groupSize, count, ids, picked);
        Debug.Assert(count == ids.Length, "validated options leave enough eligible experts");
    }

    /// <summary>The sum of the two best selection scores of a group; of a single expert, its score.</summary>
    private float GroupScore(ReadOnlySpan<float> scores, int group)
    {
        float first = float.NegativeInfinity, second = float.NegativeInfinity;
        for (int e = group * _groupSize; e < (group + 1) * _groupSize; e++)
        {
            float score = SelectionScore(scores, e);
            if (score > first) (first, second) = (score, first);
            else if (score > second) second = score;
        }
        return _groupSize == 1 ? first : first + second;
    }

    private int Pick(ReadOnlySpan<float> scores, int first, int last, int count, Span<int> ids, Span<float> picked)
    {
        for (int e = first; e < last; e++) count = Insert(e, SelectionScore(scores, e), count, ids, picked);
        return count;
    }

    private float SelectionScore(ReadOnlySpan<float> scores, int expert) =>
        correctionBias is null ? scores[expert] : scores[expert] + correctionBias[expert];

    /// <summary>Inserts behind all that score as much or more, so that the first come stays first; what falls off the end is forgotten.</summary>
    private static int Insert(int id, float score, int count, Span<int> ids, Span<float> scores)
    {
        int at = count;
        while (at > 0 && score > scores[at - 1]) at--;
        if (at == ids.Length) return count;
        if (count < ids.Length) count++;
        for (int i = count - 1; i > at; i--) (ids[i], scores[i]) = (ids[i - 1], scores[i - 1]);
        (ids[at], scores[at]) = (id, score);
        return count;
    }

    /// <summary>Exponentials through FP64, rounded once: FP32 results that do not depend on a platform's FP32 math library.</summary>
    private static void Softmax(Span<float> values)
    {
        float max = float.NegativeInfinity, sum = 0;
        foreach (float value in values) max = Math.Max(max, value);
        foreach (ref float value in values)
        {
            value = value == max ? 1f : (float)Math.Exp((double)value - max); // also when both are infinite
            sum += value;
        }
        foreach (ref float value in values) value /= sum;
    }

    private static void Sigmoid(Span<float> values)
    {
        foreach (ref float value in values) value = Sigmoid(value);
    }

    public static float Sigmoid(float value) => (float)(1 / (1 + Math.Exp(-(double)value)));

    private void Renormalize(Span<float> weights)
    {
        float sum = 0;
        foreach (float weight in weights) sum += weight;
        sum = Math.Max(sum + options.RenormalizeEpsilon, options.RenormalizeMinimum);
        if (sum == 0) return; // all weights are 0 and stay so
        foreach (ref float weight in weights) weight /= sum;
    }
}
