namespace MoeSharp.Tests;

public class MoeLayerTests
{
    public static TheoryData<string> Backends => [.. ExpertsBackends.All.Select(b => b.Name)];

    [Theory, MemberData(nameof(Backends))]
    public void IsRouterThenExpertsThenSharedExpertsInOneChain(string backend)
    {
        foreach (bool gated in new[] { true, false })
        {
            var tiny = new TinyLayer { Gated = gated };
            using MoeLayer layer = Build(tiny, backend);
            const int tokens = 7;
            BFloat16[] hidden = tiny.HiddenStates(tokens);
            int[] ids = new int[tokens * tiny.TopK];
            float[] weights = new float[ids.Length], want = new float[hidden.Length];
            layer.Router.Route(hidden, ids, weights);
            layer.Experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = weights }, want);
            var shared = new BFloat16[hidden.Length];
            layer.SharedExperts!.Forward(hidden, new int[tokens], Enumerable.Repeat(1f, tokens).ToArray(), shared);
            float[] gate = new float[tokens];
            if (gated) new RowDots(tiny.Parts().SharedGate!, 1, tiny.Hidden).Compute(hidden, 0, 1, gate);
            for (int i = 0; i < want.Length; i++)
                want[i] = MathF.FusedMultiplyAdd(shared[i], gated ? (float)(1 / (1 + Math.Exp(-(double)gate[i / tiny.Hidden]))) : 1f, want[i]);

            float[] got = new float[hidden.Length], bypass = new float[hidden.Length];
            var rounded = new BFloat16[hidden.Length];
            var roundedBypass = new BFloat16[hidden.Length];
            layer.Forward(hidden, got);
            layer.Forward(hidden, rounded);
            layer.Forward(hidden, ids, weights, bypass);
            layer.Forward(hidden, ids, weights, roundedBypass);
            Assert.Equal(want, got);
            Assert.Equal(want, bypass);
            Assert.Equal(want.Select(BFloat16.FromSingle), rounded);
            Assert.Equal(rounded, roundedBypass);
        }
    }

    [Theory, MemberData(nameof(Backends))]
    public void WithoutSharedExpertsItIsTheExpertsAlone(string backend)
    {
        var tiny = new TinyLayer { Shared = false, Format = WeightFormat.MxFp8 };
        using MoeLayer layer = Build(tiny, backend);
        Assert.Null(layer.SharedExperts);
        BFloat16[] hidden = tiny.HiddenStates(5), got = new BFloat16[hidden.Length], want = new BFloat16[hidden.Length];
        int[] ids = new int[5 * tiny.TopK];
        float[] weights = new float[ids.Length];
        layer.Router.Route(hidden, ids, weights);
        layer.Experts.Forward(hidden, ids, weights, want);
        layer.Forward(hidden, got);
        Assert.Equal(want, got);
    }

    [Theory, MemberData(nameof(Backends))]
    public void RowsDoNotDependOnBatchChunksOrStaleWorkspace(string backend)
    {
        var tiny = new TinyLayer();
        using MoeLayer layer = Build(tiny, backend);
        const int tokens = 21;
        BFloat16[] hidden = tiny.HiddenStates(tokens);
        float[] want = new float[hidden.Length], got = new float[hidden.Length];
        layer.Forward(hidden, want);
        float[] row = new float[tiny.Hidden];
        for (int t = 0; t < tokens; t++)
        {
            layer.Forward(hidden.AsSpan(t * tiny.Hidden, tiny.Hidden), row);
            Assert.True(row.AsSpan().SequenceEqual(want.AsSpan(t * tiny.Hidden, tiny.Hidden)), $"{backend}: token {t} alone");
        }
        foreach (int fits in new[] { 1, 2, 5, 20, 21, 40 })
        {
            long bytes = layer.PlanBytes(fits);
            using var workspace = new Workspace(bytes + 7);
            workspace.Poison();
            layer.Forward(hidden, got, workspace);
            Assert.True(got.AsSpan().SequenceEqual(want), $"{backend}: a workspace for {fits} tokens");
            using MoeLayer bounded = Build(tiny, backend, new() { MaxWorkspaceBytes = bytes });
            Assert.True(bounded.PlanBytes(tokens) <= bytes, $"{backend}: {bounded.PlanBytes(tokens)} bytes of {bytes}");
            got.AsSpan().Clear();
            bounded.Forward(hidden, got);
            Assert.True(got.AsSpan().SequenceEqual(want), $"{backend}: a budget for {fits} tokens");
        }
    }

    [Theory, MemberData(nameof(Backends))]
    public void ABudgetOrWorkspaceBelowOneTokenIsRefused(string backend)
    {
        var tiny = new TinyLayer();
        using MoeLayer layer = Build(tiny, backend);
        long one = layer.PlanBytes(1);
        using LayerParts parts = tiny.Parts();
        Assert.Contains("MaxWorkspaceBytes", Assert.Throws<ArgumentException>(
            () => new MoeLayer(parts, new() { Backend = ExpertsBackends.ByName(backend), MaxWorkspaceBytes = one - 1 })).Message);
        using var small = new Workspace(one - 1);
        Assert.Contains("one token needs", Assert.Throws<InvalidOperationException>(
            () => layer.Forward(tiny.HiddenStates(1), new float[tiny.Hidden], small)).Message);
        Assert.Equal(Math.Max(one, layer.PlanBytes(9)), MoeLayer.PlanBytes([layer, layer], 9));
    }

    [Theory, MemberData(nameof(Backends))]
    public void TokensWithoutExpertsStillPassTheSharedOnes(string backend)
    {
        var tiny = new TinyLayer { Gated = false };
        using MoeLayer layer = Build(tiny, backend);
        BFloat16[] hidden = tiny.HiddenStates(2), got = new BFloat16[hidden.Length], want = new BFloat16[hidden.Length];
        layer.Forward(hidden, Enumerable.Repeat(-1, 2 * tiny.TopK).ToArray(), new float[2 * tiny.TopK], got);
        layer.SharedExperts!.Forward(hidden, new int[2], [1f, 1f], want);
        Assert.Equal(want.Select(v => v.ToSingle()), got.Select(v => v.ToSingle())); // numbers, not bits: 0 + -0 is +0
    }

    [Theory, MemberData(nameof(Backends))]
    public void ExpertParallelPartsAddUpToTheWhole(string backend)
    {
        var tiny = new TinyLayer();
        using MoeLayer whole = Build(tiny, backend);
        BFloat16[] hidden = tiny.HiddenStates(9);
        float[] want = new float[hidden.Length], sum = new float[hidden.Length], got = new float[hidden.Length];
        whole.Forward(hidden, want);
        foreach ((int first, int count) in new[] { (0, 2), (2, 4) })
        {
            LayerParts all = tiny.Parts();
            BlockScaledMatrix[] Slice(IReadOnlyList<BlockScaledMatrix> matrices) => [.. matrices.Skip(first).Take(count)];
            using var rank = new MoeLayer(new LayerParts
            {
                Layer = 3,
                Router = all.Router,
                RouterWeight = all.RouterWeight,
                RouterCorrectionBias = all.RouterCorrectionBias,
                Experts = new ExpertWeights(Slice(all.Experts.GateMatrices), Slice(all.Experts.UpMatrices), Slice(all.Experts.DownMatrices)),
                ExpertsOptions = all.ExpertsOptions with { GlobalExperts = tiny.Experts },
                ExpertMap = [.. Enumerable.Range(0, tiny.Experts).Select(e => e >= first && e < first + count ? e - first : -1)],
                SharedExperts = first == 0 ? all.SharedExperts : null,
                SharedGate = first == 0 ? all.SharedGate : null,
            }, new() { Backend = ExpertsBackends.ByName(backend) });
            rank.Forward(hidden, got);
            for (int i = 0; i < sum.Length; i++) sum[i] += got[i];
        }
        double bound = 1e-6 * want.Max(Math.Abs);
        for (int i = 0; i < want.Length; i++) Assert.True(Math.Abs(sum[i] - want[i]) <= bound, $"{backend}: element {i} is {sum[i]}, not {want[i]}");
    }

    [Theory, MemberData(nameof(Backends))]
    public void ANaNTokenSpoilsItselfAlone(string backend)
    {
        var tiny = new TinyLayer();
        using MoeLayer layer = Build(tiny, backend);
        BFloat16[] hidden = tiny.HiddenStates(3);
        float[] clean = new float[hidden.Length], spoiled = new float[hidden.Length];
        layer.Forward(hidden, clean);
        hidden[tiny.Hidden + 5] = BFloat16.FromSingle(float.NaN);
        layer.Forward(hidden, spoiled);
        for (int t = 0; t < 3; t++)
        {
            float[] row = spoiled[(t * tiny.Hidden)..((t + 1) * tiny.Hidden)];
            if (t == 1) Assert.All(row, v => Assert.True(float.IsNaN(v), $"{backend}: {v}"));
            else Assert.Equal(clean[(t * tiny.Hidden)..((t + 1) * tiny.Hidden)], row);
        }
    }

    [Theory, MemberData(nameof(Backends))]
    public void SharedExpertsMayKeepAFormatOfTheirOwn(string backend)
    {
        var tiny = new TinyLayer { SharedFormat = WeightFormat.Bf16 };
        foreach (ActivationFormat? activations in new ActivationFormat?[] { null, ActivationFormat.Fp8, ActivationFormat.Bf16 })
        {
            using MoeLayer layer = Build(tiny, backend, new() { Activations = activations });
            Assert.Equal(activations ?? ActivationFormat.Fp8, layer.Experts.Shape.Activations);
            Assert.Equal(ActivationFormat.Bf16, layer.SharedExperts!.Shape.Activations);
            float[] output = new float[tiny.Hidden];
            layer.Forward(tiny.HiddenStates(1), output);
            Assert.All(output, v => Assert.True(float.IsFinite(v)));
        }
    }

    [Theory, MemberData(nameof(Backends))]
    public void SeveralThreadsMayRunOneLayer(string backend)
    {
        var tiny = new TinyLayer();
        using MoeLayer layer = Build(tiny, backend);
        BFloat16[] hidden = tiny.HiddenStates(9);
        float[] want = new float[hidden.Length];
        layer.Forward(hidden, want);
        Parallel.For(0, 8, _ =>
        {
            float[] got = new float[hidden.Length];
            layer.Forward(hidden, got);
            Assert.True(got.AsSpan().SequenceEqual(want), backend);
        });
        using var workspace = new Workspace(layer.PlanBytes(9));
        workspace.Enter();
        Assert.Contains("in use", Assert.Throws<InvalidOperationException>(() => layer.Forward(hidden, new float[hidden.Length], workspace)).Message);
        workspace.Leave();
        layer.Forward(hidden, new float[hidden.Length], workspace);
    }

    [Theory, MemberData(nameof(Backends))]
    public void SteadyStateAllocatesNothing(string backend)
    {
        var tiny = new TinyLayer();
        using MoeLayer layer = Build(tiny, backend);
        BFloat16[] hidden = tiny.HiddenStates(6), output = new BFloat16[hidden.Length];
        for (int i = 0; i < 3; i++) layer.Forward(hidden, output);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 5; i++) layer.Forward(hidden, output);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Theory, MemberData(nameof(Backends))]
    public void WrongLengthsAreRefusedAndNoTokensAreNoWork(string backend)
    {
        var tiny = new TinyLayer();
        using MoeLayer layer = Build(tiny, backend);
        int h = tiny.Hidden, k = tiny.TopK;
        layer.Forward([], new float[0]);
        string Refusal(Action forward) => Assert.Throws<ArgumentException>(forward).Message;
        Assert.Contains("hidden_states", Refusal(() => layer.Forward(new BFloat16[h + 1], new float[h + 1])));
        Assert.Contains("output", Refusal(() => layer.Forward(new BFloat16[h], new float[2 * h])));
        Assert.Contains("topk_ids", Refusal(() => layer.Forward(new BFloat16[h], new int[k + 1], new float[k], new float[h])));
        Assert.Contains("topk_weights", Refusal(() => layer.Forward(new BFloat16[h], new int[k], new float[k - 1], new float[h])));
        float[] untouched = Enumerable.Repeat(42f, 2 * h).ToArray();
        using var forOneToken = new Workspace(layer.PlanBytes(1));
        Assert.Contains("6", Refusal(() => layer.Forward(new BFloat16[2 * h], [0, 1, 2, 0, 6, 1], new float[2 * k], untouched, forOneToken)));
        Assert.All(untouched, v => Assert.Equal(42f, v));
    }

    [Fact]
    public void ABadRouterIsRefusedWithItsLayer()
    {
        LayerParts good = new TinyLayer { Shared = false }.Parts();
        LayerParts With(RouterOptions? router = null, float[]? bias = null) => new()
        {
            Layer = 3,
            Router = router ?? good.Router,
            RouterWeight = good.RouterWeight,
            RouterCorrectionBias = bias,
            Experts = good.Experts,
            ExpertsOptions = good.ExpertsOptions,
        };
        string nan = Assert.Throws<CheckpointException>(() => new MoeLayer(With(bias: [0, 0, float.NaN, 0, 0, 0]))).Message;
        Assert.Contains("Layer 3", nan);
        Assert.Contains("correction bias of expert 2 is NaN", nan);
        Assert.Contains("top-k is 9", Assert.Throws<CheckpointException>(() => new MoeLayer(With(good.Router with { TopK = 9 }))).Message);
        Assert.Contains("top-k 3", Assert.Throws<ArgumentException>(() => new MoeLayer(With(good.Router with { TopK = 2 }))).Message);
        Assert.Contains("3 experts", Assert.Throws<ArgumentException>(() => new MoeLayer(With(good.Router with { Experts = 3 }))).Message);
        good.Dispose();
    }

    private static MoeLayer Build(TinyLayer tiny, string backend, MoeLayerOptions? options = null) =>
        new(tiny.Parts(), (options ?? new()) with { Backend = ExpertsBackends.ByName(backend) });
}
