namespace MoeSharp.Tests;

/// <summary>Options with random operands, all made from one seed.</summary>
public sealed record RouterCase(RouterOptions Options, int Hidden, int Seed)
{
    public int E => Options.Experts;
    public int K => Options.TopK;
    public float[] Weight { get; } = Random(Options.Experts * Hidden, Seed, Seed % 7 == 0);
    public float[] Bias { get; } = Random(Options.Experts, Seed + 1, false);

    public Router Router() => new(Options, Weight, correctionBias: Bias);

    public BFloat16[] HiddenStates(int tokens, int first = 0) =>
        Random((first + tokens) * Hidden, Seed + 2, true)[(first * Hidden)..].Select(BFloat16.FromSingle).ToArray();

    public (int[] Ids, float[] Weights) Route(int tokens, int first = 0)
    {
        int[] ids = new int[tokens * K];
        float[] weights = new float[tokens * K];
        Router().Route(HiddenStates(tokens, first), ids, weights);
        return (ids, weights);
    }

    private static float[] Random(int count, int seed, bool bf16)
    {
        var random = new Random(seed);
        var values = new float[count];
        for (int i = 0; i < count; i++) values[i] = random.NextSingle() * 2 - 1;
        return bf16 ? values.Select(v => BFloat16.FromSingle(v).ToSingle()).ToArray() : values;
    }
}

/// <summary>The same routing in FP64 with sorts and masks: what the fast one is checked against.</summary>
internal static class PlainRouter
{
    /// <summary>Ids, weights, and the smallest difference of two selection scores, or of two groups', on which ids depend: where FP32 cannot tell them apart, other ids are as good.</summary>
    public static (int[] Ids, double[] Weights, double Gap) Route(RouterCase c, int token)
    {
        float[] hidden = c.HiddenStates(1, token).Select(v => v.ToSingle()).ToArray();
        double[] logits = new double[c.E];
        for (int e = 0; e < c.E; e++)
            for (int i = 0; i < c.Hidden; i++) logits[e] += (double)c.Weight[e * c.Hidden + i] * hidden[i];
        double[] scores = c.Options.Scoring switch
        {
            RouterScoring.Softmax => Softmax(logits),
            RouterScoring.Sigmoid => logits.Select(x => 1 / (1 + Math.Exp(-x))).ToArray(),
            _ => logits,
        };
        double[] selection = scores.Select((s, e) => s + c.Bias[e]).ToArray();
        int size = c.E / c.Options.Groups;
        (double Score, int Group)[] groups = Enumerable.Range(0, c.Options.Groups)
            .Select(g => (selection.Skip(g * size).Take(size).OrderDescending().Take(2).Sum(), g)).OrderByDescending(g => g.Item1).ToArray();
        var eligible = groups.Take(c.Options.TopkGroups).Select(g => g.Group).ToHashSet();
        int[] order = Enumerable.Range(0, c.E).Where(e => eligible.Contains(e / size)).OrderByDescending(e => selection[e]).ToArray(), ids = order[..c.K];
        IEnumerable<double> gaps = order.Take(c.K).Zip(order.Skip(1), (a, b) => selection[a] - selection[b]);
        if (c.Options.TopkGroups < groups.Length) gaps = gaps.Append(groups[c.Options.TopkGroups - 1].Score - groups[c.Options.TopkGroups].Score);
        double[] weights = ids.Select(e => scores[e]).ToArray();
        if (c.Options.Scoring == RouterScoring.TopkSoftmax) weights = Softmax(weights);
        double sum = Math.Max(weights.Sum() + c.Options.RenormalizeEpsilon, c.Options.RenormalizeMinimum);
        return (ids, weights.Select(w => (c.Options.Renormalize ? w / sum : w) * c.Options.ScalingFactor).ToArray(), gaps.DefaultIfEmpty(1).Min());
    }

    private static double[] Softmax(double[] values)
    {
        double[] powers = values.Select(v => Math.Exp(v - values.Max())).ToArray();
        return powers.Select(p => p / powers.Sum()).ToArray();
    }
}
