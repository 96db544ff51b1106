using CsCheck;

namespace MoeSharp.Tests;

public class RouterTests
{
    private static readonly Gen<RouterCase> Cases = Gen.Select(
        Pick(1, 2, 3, 8, 16, 33, 64), Pick(1, 2, 4), Gen.Int[0, 3], Gen.Int[1, 40], Gen.Int[0, 3], Gen.Int[0, 1_000_000],
        (perGroup, groups, topkGroups, hidden, scoring, seed) =>
        {
            int experts = perGroup * groups, eligible = 1 + topkGroups % groups;
            return new RouterCase(new RouterOptions
            {
                Experts = experts,
                TopK = 1 + seed % Math.Min(16, eligible * perGroup),
                Scoring = (RouterScoring)(scoring % 3),
                Groups = groups,
                TopkGroups = eligible,
                Renormalize = seed % 2 == 0,
                RenormalizeEpsilon = seed % 3 == 0 ? 1e-20f : 0,
                ScalingFactor = seed % 5 == 0 ? 2.5f : 1,
            }, hidden, seed);
        });

    [Fact]
    public void AgreesWithAStraightforwardRouter() => Cases.Sample(c =>
    {
        (int[] ids, float[] weights) = c.Route(3);
        for (int t = 0; t < 3; t++)
        {
            (int[] wantIds, double[] wantWeights, double gap) = PlainRouter.Route(c, t);
            if (gap < 1e-6) continue;
            int[] gotIds = ids[(t * c.K)..((t + 1) * c.K)];
            Assert.True(wantIds.SequenceEqual(gotIds), $"{c}: token {t} has [{string.Join(' ', gotIds)}], want [{string.Join(' ', wantIds)}]");
            for (int i = 0; i < c.K; i++)
            {
                float got = weights[t * c.K + i];
                Assert.True(Math.Abs(got - wantWeights[i]) <= 2e-6 * c.Options.ScalingFactor, $"{c}, token {t} slot {i} {got}, not {wantWeights[i]}");
            }
        }
    }, iter: 400);

    [Fact]
    public void ATokenAloneIsTheTokenInAnyBatchBitForBit() => Cases.Sample(c =>
    {
        const int tokens = 37;
        (int[] ids, float[] weights) = c.Route(tokens);
        foreach (int t in new[] { 0, 15, 16, 36 })
        {
            (int[] oneIds, float[] oneWeights) = c.Route(1, t);
            Assert.True(oneIds.AsSpan().SequenceEqual(ids.AsSpan(t * c.K, c.K)), $"{c}: ids of token {t}");
            Assert.True(oneWeights.AsSpan().SequenceEqual(weights.AsSpan(t * c.K, c.K)), $"{c}: weights of token {t}");
        }
    }, iter: 100);

    [Fact]
    public void ATeamChangesNoBit()
    {
        var c = new RouterCase(new RouterOptions { Experts = 40, TopK = 5, Scoring = RouterScoring.Softmax, Groups = 4, TopkGroups = 3 }, 100, 11);
        const int tokens = 600; // several blocks, the last one ragged
        (int[] ids, float[] weights) = c.Route(tokens);
        int[] teamIds = new int[ids.Length];
        float[] teamWeights = new float[ids.Length];
        Router router = c.Router();
        using var team = new Team(3);
        router.Route(c.HiddenStates(tokens), teamIds, teamWeights, new float[router.ScratchLength(tokens)], team);
        Assert.Equal(ids, teamIds);
        Assert.Equal(weights, teamWeights);
    }

    [Fact]
    public void PermutingExpertsPermutesIds() => Cases.Where(c => c.Options.Groups == 1).Sample(c =>
    {
        int[] order = Enumerable.Range(0, c.E).ToArray();
        new Random(c.Seed).Shuffle(order);
        float[] weight = new float[c.Weight.Length], bias = new float[c.E];
        for (int e = 0; e < c.E; e++)
        {
            c.Weight.AsSpan(order[e] * c.Hidden, c.Hidden).CopyTo(weight.AsSpan(e * c.Hidden));
            bias[e] = c.Bias[order[e]];
        }
        (int[] ids, _) = c.Route(2);
        int[] permuted = new int[2 * c.K];
        new Router(c.Options, weight, correctionBias: bias).Route(c.HiddenStates(2), permuted, new float[2 * c.K]);
        for (int i = 0; i < ids.Length; i++) Assert.True(ids[i] == order[permuted[i]], $"{c}: slot {i} is {ids[i]}, permuted {order[permuted[i]]}");
    }, iter: 200);

    [Fact]
    public void RenormalizedWeightsSumToTheScalingFactor() => Cases.Sample(c =>
    {
        (_, float[] weights) = c.Route(1);
        float want = c.Options.ScalingFactor, sum = weights.Sum();
        if (c.Options.Renormalize || c.Options.Scoring == RouterScoring.TopkSoftmax) Assert.True(Math.Abs(sum - want) < 1e-5 * want, $"{c}: {sum}");
        else if (c.Options.Scoring == RouterScoring.Softmax) Assert.True(sum <= want * 1.00001, $"{c}: {sum}");
    }, iter: 200);

    [Fact]
    public void CorrectionBiasSelectsButDoesNotWeigh()
    {
        // Logits 0 .. 7; the bias lifts experts 0 and 1 above all others.
        var options = new RouterOptions { Experts = 8, TopK = 3, Scoring = RouterScoring.Sigmoid };
        float[] weight = [0, 1, 2, 3, 4, 5, 6, 7];
        float[] bias = [10, 11, 0, 0, 0, 0, 0, 0];
        (int[] ids, float[] weights) = Route(new Router(options, weight, correctionBias: bias), 1);
        Assert.Equal([1, 0, 7], ids);
        Assert.Equal([Sigmoid(1), Sigmoid(0), Sigmoid(7)], weights);
    }

    [Fact]
    public void LogitBiasEntersTheScores()
    {
        var options = new RouterOptions { Experts = 4, TopK = 2, Scoring = RouterScoring.TopkSoftmax };
        (int[] ids, float[] weights) = Route(new Router(options, [1, 2, 3, 4], logitBias: [10, 0, 0, 0]), 1);
        Assert.Equal([0, 3], ids);
        Assert.Equal(1 / (1 + Math.Exp(-7)), weights[0], 6);
    }

    [Theory]
    [InlineData(RouterScoring.Softmax)]
    [InlineData(RouterScoring.Sigmoid)]
    [InlineData(RouterScoring.TopkSoftmax)]
    public void TiesGoToTheLowestIndex(RouterScoring scoring)
    {
        var options = new RouterOptions { Experts = 6, TopK = 4, Scoring = scoring };
        (int[] ids, _) = Route(new Router(options, [1, 2, 1, 2, 1, 2]), 1);
        Assert.Equal([1, 3, 5, 0], ids);
    }

    [Fact]
    public void AGroupScoresTheSumOfItsTwoBestAndTheOthersAreOut()
    {
        // Groups (0 1 2) (3 4 5) (6 7 8): sums of the two best 9, 11, 10; the best single expert (0) lies in the group that loses.
        var options = new RouterOptions { Experts = 9, TopK = 3, Scoring = RouterScoring.TopkSoftmax, Groups = 3, TopkGroups = 2 };
        (int[] ids, _) = Route(new Router(options, [8, 1, 0, 6, 5, 0, 7, 3, 2]), 1);
        Assert.Equal([6, 3, 4], ids);
    }

    [Fact]
    public void ExpertsOutsideTheEligibleGroupsStayOutEvenWhenAllOthersScoreLess()
    {
        // With negative selection scores a mask of 0 would prefer the masked group; a mask of -Inf does not.
        var options = new RouterOptions { Experts = 4, TopK = 2, Scoring = RouterScoring.Sigmoid, Groups = 2, TopkGroups = 1 };
        (int[] ids, _) = Route(new Router(options, [1, 2, 3, 4], correctionBias: [-9, -9, -5, -5]), 1);
        Assert.Equal([3, 2], ids);
    }

    [Fact]
    public void TiedGroupsGoToTheLowestIndex()
    {
        var options = new RouterOptions { Experts = 6, TopK = 2, Scoring = RouterScoring.TopkSoftmax, Groups = 3, TopkGroups = 1 };
        (int[] ids, _) = Route(new Router(options, [0, 0, 2, 1, 1, 2]), 1);
        Assert.Equal([2, 3], ids);
    }

    [Fact]
    public void TiesAcrossEligibleGroupsGoToTheLowestIndex()
    {
        // Group 1 scores more than group 0, yet the tie between experts 0 and 2 goes to 0.
        var options = new RouterOptions { Experts = 4, TopK = 3, Scoring = RouterScoring.TopkSoftmax, Groups = 2, TopkGroups = 2 };
        var masked = options with { Experts = 6, Groups = 3 };
        Assert.Equal([0, 2, 3], Route(new Router(options, [5, 1, 5, 4]), 1).Ids);
        Assert.Equal([0, 2, 3], Route(new Router(masked, [5, 1, 5, 4, 0, 0]), 1).Ids);
    }

    [Fact]
    public void SixteenOf896()
    {
        var c = new RouterCase(new RouterOptions { Experts = 896, TopK = 16, Scoring = RouterScoring.Sigmoid, Renormalize = true }, 160, 7);
        (int[] ids, float[] weights) = c.Route(20);
        for (int t = 0; t < 20; t++)
        {
            Assert.Equal(PlainRouter.Route(c, t).Ids, ids[(t * 16)..((t + 1) * 16)]);
            Assert.Equal(1, weights.Skip(t * 16).Take(16).Sum(), 5);
        }
    }

    [Fact]
    public void NaNHiddenStatesStillGiveValidDistinctIds()
    {
        foreach (RouterScoring scoring in Enum.GetValues<RouterScoring>())
        {
            var options = new RouterOptions { Experts = 8, TopK = 3, Scoring = scoring, Renormalize = true, Groups = 4, TopkGroups = 2 };
            foreach (float hidden in new[] { float.NaN, float.PositiveInfinity, float.NegativeInfinity })
            {
                (int[] ids, float[] weights) = Route(new Router(options, [0, 1, -2, 3, -4, 5, -6, 7]), hidden);
                Assert.True(ids.Distinct().Count() == 3 && ids.All(id => id is >= 0 and < 8), $"{scoring} {hidden}: {string.Join(' ', ids)}");
                Assert.True(weights.All(float.IsFinite), $"{scoring} {hidden}: {string.Join(' ', weights)}");
            }
        }
    }

    [Fact]
    public void AllZeroScoresWeighZeroInsteadOfNaN()
    {
        var options = new RouterOptions { Experts = 2, TopK = 2, Scoring = RouterScoring.Sigmoid, Renormalize = true };
        Assert.Equal([0f, 0f], Route(new Router(options, [-1e30f, -1e30f]), 1e30f).Weights);
    }

    [Fact]
    public void MinimumBoundsTheSum()
    {
        var options = new RouterOptions { Experts = 2, TopK = 1, Scoring = RouterScoring.Sigmoid, Renormalize = true, RenormalizeMinimum = 4 };
        Assert.Equal([0.125f], Route(new Router(options, [0, -1]), 1).Weights);
    }

    [Fact]
    public void NoTokensAreNoWork() => new Router(new() { Experts = 2, TopK = 1, Scoring = RouterScoring.Softmax }, [1, 2]).Route([], [], []);

    [Fact]
    public void SteadyStateAllocatesNothing()
    {
        var c = new RouterCase(new RouterOptions { Experts = 64, TopK = 8, Scoring = RouterScoring.Sigmoid, Groups = 8, TopkGroups = 4 }, 100, 1);
        BFloat16[] hidden = c.HiddenStates(20);
        int[] ids = new int[20 * 8];
        float[] weights = new float[20 * 8];
        Router router = c.Router();
        for (int i = 0; i < 3; i++) router.Route(hidden, ids, weights);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 10; i++) router.Route(hidden, ids, weights);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Theory]
    [InlineData(0, 1, 1, 1, 0, "0 experts")]
    [InlineData(8, 0, 1, 1, 0, "top-k is 0")]
    [InlineData(8, 9, 1, 1, 0, "top-k is 9 but there are only 8")]
    [InlineData(8, 2, 3, 1, 0, "8 router experts cannot form 3")]
    [InlineData(8, 2, 0, 1, 0, "cannot form 0")]
    [InlineData(8, 2, 2, 3, 0, "3 eligible router groups of 2")]
    [InlineData(8, 2, 2, 0, 0, "0 eligible router groups")]
    [InlineData(8, 3, 4, 1, 0, "hold only 2")]
    [InlineData(8, 2, 1, 1, float.NaN, "scaling factor is NaN")]
    public void ContradictionsAreRefused(int experts, int topk, int groups, int topkGroups, float scale, string because)
    {
        var options = new RouterOptions
        {
            Experts = experts,
            TopK = topk,
            Scoring = RouterScoring.Softmax,
            Groups = groups,
            TopkGroups = topkGroups,
            ScalingFactor = scale,
        };
        Assert.Contains(because, Assert.Throws<ArgumentException>(() => new Router(options, new float[8 * 4])).Message);
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void ValuesThatAreNotFiniteAreRefusedByName(float bad)
    {
        var options = new RouterOptions { Experts = 4, TopK = 2, Scoring = RouterScoring.Sigmoid };
        float[] weight = [1, 2, 3, 4], spoiled = [0, 0, bad, 0];
        string Refusal(Func<Router> build) => Assert.Throws<ArgumentException>(build).Message;
        Assert.Contains($"correction bias of expert 2 is {bad}", Refusal(() => new Router(options, weight, correctionBias: spoiled)));
        Assert.Contains($"logit bias of expert 2 is {bad}", Refusal(() => new Router(options, weight, logitBias: spoiled)));
        Assert.Contains($"weight of expert 2 is {bad}", Refusal(() => new Router(options, spoiled)));
    }

    [Fact]
    public void WrongLengthsAreRefused()
    {
        var options = new RouterOptions { Experts = 4, TopK = 2, Scoring = RouterScoring.Sigmoid };
        Assert.Throws<ArgumentException>(() => new Router(options, new float[7]));
        Assert.Throws<ArgumentException>(() => new Router(options, []));
        Assert.Throws<ArgumentException>(() => new Router(options, new float[8], new float[3]));
        Assert.Throws<ArgumentException>(() => new Router(options, new float[8], default, new float[5]));
        var router = new Router(options, new float[8]);
        Assert.Throws<ArgumentException>(() => router.Route(new BFloat16[3], new int[2], new float[2]));
        Assert.Throws<ArgumentException>(() => router.Route(new BFloat16[2], new int[3], new float[3]));
        Assert.Throws<ArgumentException>(() => router.Route(new BFloat16[2], new int[2], new float[3]));
    }

    /// <summary>Routes one token with H = 1, so that the logits are the weight times one number.</summary>
    private static (int[] Ids, float[] Weights) Route(Router router, float hidden)
    {
        int[] ids = new int[router.TopK];
        float[] weights = new float[router.TopK];
        router.Route([(BFloat16)hidden], ids, weights);
        return (ids, weights);
    }

    private static Gen<int> Pick(params int[] values) => Gen.Int[0, values.Length - 1].Select(i => values[i]);

    private static float Sigmoid(double x) => (float)(1 / (1 + Math.Exp(-x)));
}
