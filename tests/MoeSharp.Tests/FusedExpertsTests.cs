namespace MoeSharp.Tests;

/// <summary>The contract of <see cref="FusedExperts"/>: what is accepted, refused and written, on every backend.</summary>
public class FusedExpertsTests
{
    private const int H = 192, I = 96, E = 6, K = 2;

    public static TheoryData<string> Backends => [.. ExpertsBackends.All.Select(b => b.Name)];

    [Theory, MemberData(nameof(Backends))]
    public void TokensWithoutExpertsGetZerosAndNoTokensAreNoWork(string backend)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        using FusedExperts experts = Build(weights, backend);
        experts.Forward([], [], [], Span<BFloat16>.Empty);
        foreach (int tokens in new[] { 1, 2, 127 })
        {
            int[] ids = [.. Enumerable.Repeat(-1, tokens * K)];
            float[] output = Run(experts, RandomLayer.Hidden(tokens, H, 2), ids, [.. Enumerable.Repeat(float.NaN, tokens * K)]);
            Assert.True(output.All(v => v == 0), $"{tokens} tokens without experts");
        }
    }

    [Theory, MemberData(nameof(Backends))]
    public void OneExpertMayTakeEverything(string backend)
    {
        const int tokens = 127;
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        using FusedExperts experts = Build(weights, backend);
        BFloat16[] hidden = RandomLayer.Hidden(tokens, H, 2);
        int[] ids = [.. Enumerable.Range(0, tokens * K).Select(s => s % K == 0 ? 4 : -1)];
        float[] topkWeights = RandomLayer.TopkWeights(tokens, K, 3);
        AssertClose(experts, weights, hidden, ids, topkWeights);
    }

    [Theory, MemberData(nameof(Backends))]
    public void AnExpertNamedTwiceCountsTwice(string backend)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        using FusedExperts experts = Build(weights, backend);
        BFloat16[] hidden = RandomLayer.Hidden(3, H, 2);
        float[] twice = Run(experts, hidden, [1, 1, 5, 5, 0, 0], [0.5f, 0.25f, 0.5f, 0.25f, 0.5f, 0.25f]);
        float[] once = Run(experts, hidden, [1, -1, 5, -1, -1, 0], [0.75f, 9, 0.75f, 9, 9, 0.75f]);
        for (int n = 0; n < once.Length; n++) Assert.True(twice[n] == once[n], $"[{n}]: {twice[n]} instead of {once[n]}"); // both weights and their sum are exact
    }

    [Theory, MemberData(nameof(Backends))]
    public void IdsOutOfRangeAreNamedBeforeAnythingIsWritten(string backend)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        using FusedExperts experts = Build(weights, backend);
        using FusedExperts chunked = new(new() { TopK = K, MaxWorkspaceBytes = experts.PlanWorkspace(1).Bytes }, weights, ExpertsBackends.ByName(backend));
        BFloat16[] hidden = RandomLayer.Hidden(2, H, 2);
        foreach (FusedExperts each in new[] { experts, chunked })
        {
            foreach (long bad in new[] { E, -2, long.MaxValue, long.MinValue })
            {
                float[] output = [.. Enumerable.Repeat(7f, 2 * H)];
                var error = Assert.Throws<ArgumentException>(() =>
                    each.Forward(new ExpertsInput { Hidden = hidden, TopkIds64 = [0, 1, 2, bad], TopkWeights = new float[4] }, output));
                Assert.StartsWith($"topk_ids[1, 1] is {bad}; ids must lie in -1 .. {E - 1}.", error.Message, StringComparison.Ordinal);
                Assert.True(output.All(v => v == 7), $"id {bad}: the output was touched");
            }
        }
    }

    [Theory, MemberData(nameof(Backends))]
    public void WrongCountsAreNamedBeforeAnythingIsWritten(string backend)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        using FusedExperts experts = Build(weights, backend);
        BFloat16[] hidden = RandomLayer.Hidden(2, H, 2);
        float[] output = [.. Enumerable.Repeat(7f, 2 * H)];
        var error = Assert.Throws<ArgumentException>(() => experts.Forward(
            new ExpertsInput { Hidden = hidden, TopkIds = [0, 3, 3, -1], TopkWeights = new float[4], ExpertCounts = [1, 0, 0, 1, 0, 0] }, output));
        Assert.Equal("expert_counts[3] is 1 but topk_ids send 2 rows to that expert.", error.Message);
        Assert.True(output.All(v => v == 7), "the output was touched");
        experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = [0, 3, 3, -1], TopkWeights = new float[4], ExpertCounts = [1, 0, 0, 2, 0, 0] }, output);
        Assert.True(output.All(v => v == 0), "weights of zero give zeros");
    }

    [Theory, MemberData(nameof(Backends))]
    public void WrongLengthsAndContradictionsAreNamed(string backend)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        using FusedExperts experts = Build(weights, backend);
        using FusedExperts w8a16 = new(new() { TopK = K, Activations = ActivationFormat.Bf16 }, weights, ExpertsBackends.ByName(backend));
        using FusedExperts onInput = new(new() { TopK = 1, RouterWeightOnInput = true }, weights, ExpertsBackends.ByName(backend));
        using FusedExperts slice = new(new() { TopK = K, GlobalExperts = 9 }, weights, ExpertsBackends.ByName(backend));
        var output = new BFloat16[H];
        var hidden = new BFloat16[H];
        var codes = new Float8E4M3[H];
        Refuses("hidden_states has 191 elements", experts, new() { Hidden = hidden.AsSpan(1), TopkIds = [0, 1], TopkWeights = new float[K] });
        Refuses("output has 192 elements but hidden_states has 384", experts, new() { Hidden = new BFloat16[2 * H], TopkIds = new int[4], TopkWeights = new float[4] });
        Refuses("topk_ids has 3 elements but 1 tokens x top-k 2 need 2", experts, new() { Hidden = hidden, TopkIds = new int[3], TopkWeights = new float[3] });
        Refuses("topk_weights has 1 elements but topk_ids has 2", experts, new() { Hidden = hidden, TopkIds = new int[2], TopkWeights = new float[1] });
        Refuses("not both", experts, new() { Hidden = hidden, TopkIds = new int[2], TopkIds64 = new long[2], TopkWeights = new float[2] });
        Refuses("expert_counts has 5 elements but there are 6", experts, new() { Hidden = hidden, TopkIds = new int[2], TopkWeights = new float[2], ExpertCounts = new int[5] });
        Refuses("expert_map has 5 elements", experts, new() { Hidden = hidden, TopkIds = new int[2], TopkWeights = new float[2], ExpertMap = new int[5] });
        Refuses("expert_map[2] is 6", experts, new() { Hidden = hidden, TopkIds = new int[2], TopkWeights = new float[2], ExpertMap = [0, 1, 6, 3, 4, 5] });
        Refuses("6 of 9 experts are local, so expert_map is needed", slice, new() { Hidden = hidden, TopkIds = new int[2], TopkWeights = new float[2] });
        Refuses("need 2 FP32 scales (2 per token) but 0", experts, new() { QuantizedHidden = codes, TopkIds = new int[2], TopkWeights = new float[2] });
        Refuses("built for BF16 activations", w8a16, new() { QuantizedHidden = codes, HiddenScales = new float[2], TopkIds = new int[2], TopkWeights = new float[2] });
        Refuses("cannot be used with RouterWeightOnInput", onInput, new() { QuantizedHidden = codes, HiddenScales = new float[2], TopkIds = new int[1], TopkWeights = new float[1] });

        void Refuses(string message, FusedExperts layer, ExpertsInput input)
        {
            ArgumentException? error = null;
            try
            {
                layer.Forward(input, output);
            }
            catch (ArgumentException e)
            {
                error = e;
            }
            Assert.True(error is not null, $"Nothing was said about: {message}");
            Assert.Contains(message, error!.Message, StringComparison.Ordinal);
        }
    }

    [Theory, MemberData(nameof(Backends))]
    public void NaNWeightsAreRefusedOrComputed(string backend)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 2, H, I, 1);
        unsafe
        {
            weights.Down[1].Storage.Values[5 * I + 3] = 0xFF;
        }
        var error = Assert.Throws<CheckpointException>(() => new FusedExperts(new() { TopK = 1 }, weights, ExpertsBackends.ByName(backend)));
        Assert.Contains("down of expert 1", error.Message, StringComparison.Ordinal);
        using var experts = new FusedExperts(new() { TopK = 1, AllowNaNWeights = true }, weights, ExpertsBackends.ByName(backend));
        float[] output = Run(experts, RandomLayer.Hidden(2, H, 2), [0, 1], [1, 1]);
        for (int n = 0; n < output.Length; n++) Assert.True(float.IsNaN(output[n]) == (n == H + 5), $"[{n / H}, {n % H}] is {output[n]}");
    }

    [Theory, MemberData(nameof(Backends))]
    public void AWorkspaceServesManyLayersButOneCallAtATime(string backend)
    {
        using ExpertWeights one = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1), other = RandomLayer.Weights(WeightFormat.MxFp8, 3, 64, 40, 2);
        using FusedExperts first = Build(one, backend), second = Build(other, backend);
        BFloat16[] wide = RandomLayer.Hidden(9, H, 3), narrow = RandomLayer.Hidden(9, 64, 4);
        int[] ids = RandomLayer.Ids(9, K, 3, 5);
        float[] topkWeights = RandomLayer.TopkWeights(9, K, 6);
        float[] expectedWide = Run(first, wide, ids, topkWeights), expectedNarrow = Run(second, narrow, ids, topkWeights);
        using var workspace = new Workspace(Math.Max(first.WorkspaceBytes(9), second.WorkspaceBytes(9)));
        for (int round = 0; round < 3; round++)
        {
            Assert.Equal(expectedWide, Run(first, wide, ids, topkWeights, workspace));
            Assert.Equal(expectedNarrow, Run(second, narrow, ids, topkWeights, workspace));
        }
        workspace.Enter();
        var error = Assert.Throws<InvalidOperationException>(() => Run(first, wide, ids, topkWeights, workspace));
        Assert.Contains("in use", error.Message, StringComparison.Ordinal);
        workspace.Leave();
        Assert.Equal(expectedWide, Run(first, wide, ids, topkWeights, workspace));
        using var tiny = new Workspace(64);
        error = Assert.Throws<InvalidOperationException>(() => Run(first, wide, ids, topkWeights, tiny));
        Assert.Contains("The workspace has 64 bytes but one token needs", error.Message, StringComparison.Ordinal);
    }

    [Theory, MemberData(nameof(Backends))]
    public void AFailedCallLeavesTheWorkspaceUsable(string backend)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        using FusedExperts experts = Build(weights, backend);
        using var workspace = new Workspace(experts.WorkspaceBytes(1));
        BFloat16[] hidden = RandomLayer.Hidden(1, H, 2);
        Assert.Throws<ArgumentException>(() => Run(experts, hidden, [0, E], [1, 1], workspace));
        Assert.Equal(Run(experts, hidden, [0, 1], [1, 1]), Run(experts, hidden, [0, 1], [1, 1], workspace));
    }

    [Theory, MemberData(nameof(Backends))]
    public async Task TwoThreadsMayRunOneLayer(string backend)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        using FusedExperts experts = Build(weights, backend);
        BFloat16[] hidden = RandomLayer.Hidden(9, H, 2);
        int[] ids = RandomLayer.Ids(9, K, E, 3);
        float[] topkWeights = RandomLayer.TopkWeights(9, K, 4), expected = Run(experts, hidden, ids, topkWeights);
        await Task.WhenAll(Enumerable.Range(0, 2).Select(_ => Task.Run(() =>
        {
            using var workspace = new Workspace(experts.WorkspaceBytes(9));
            for (int round = 0; round < 20; round++) Assert.Equal(expected, Run(experts, hidden, ids, topkWeights, workspace));
        })));
    }

    [Theory, MemberData(nameof(Backends))]
    public void EveryExpertIsHeldToTheOracleAndADamagedOneIsFound(string backend)
    {
        const int tokens = 8;
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1), damaged = RandomLayer.Weights(WeightFormat.Block128, E, H, I, 1);
        unsafe
        {
            byte* code = damaged.Up[3].Storage.Values + 17 * H;
            while ((*code & 0x40) != 0 || (*code & 0x3F) < 0x20) code++;
            *code |= 0x40; // one bit, the exponent's highest: 256 times the value
        }
        BFloat16[] hidden = RandomLayer.Hidden(tokens, H, 2);
        foreach ((ExpertWeights stored, int broken) in new[] { (weights, -1), (damaged, 3) })
        {
            using var experts = new FusedExperts(new() { TopK = 1 }, stored, ExpertsBackends.ByName(backend));
            for (int e = 0; e < E; e++)
            {
                int[] ids = [.. Enumerable.Repeat(e, tokens)];
                float[] ones = [.. Enumerable.Repeat(1f, tokens)];
                Accuracy accuracy = Accuracy.Of(Run(experts, hidden, ids, ones), Oracle.Layer(experts.Shape, weights, hidden, ids, ones));
                Assert.True(accuracy.CalcDiff <= 5e-4 == (e != broken), $"expert {e}, damaged {broken}: {accuracy}");
            }
        }
    }

    [Fact]
    public void WhatIsNotSupportedSaysWhy()
    {
        Assert.False(FusedExperts.SupportsUngated().IsSupported);
        Assert.True(FusedExperts.SupportsParallel(new(ExpertRanks: 8)).IsSupported);
        Assert.Contains("Batched", FusedExperts.SupportsParallel(new(Dispatch: Dispatch.Batched)).Reason, StringComparison.Ordinal);
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 1, 8, 8, 1);
        var error = Assert.Throws<ArgumentException>(() => new FusedExperts(new() { TopK = 1, MaxWorkspaceBytes = 100 }, weights));
        Assert.Contains("one token alone needs", error.Message, StringComparison.Ordinal);
        var disposed = new FusedExperts(new() { TopK = 1 }, weights);
        disposed.Dispose();
        Assert.Throws<ObjectDisposedException>(() => Run(disposed, new BFloat16[8], [0], [1]));
    }

    private static FusedExperts Build(ExpertWeights weights, string backend) => new(new() { TopK = K }, weights, ExpertsBackends.ByName(backend));

    private static float[] Run(FusedExperts experts, BFloat16[] hidden, int[] ids, float[] topkWeights, Workspace? workspace = null)
    {
        var output = new float[hidden.Length];
        Array.Fill(output, float.NaN);
        experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = topkWeights }, output, workspace);
        return output;
    }

    private static void AssertClose(FusedExperts experts, ExpertWeights weights, BFloat16[] hidden, int[] ids, float[] topkWeights)
    {
        Accuracy accuracy = Accuracy.Of(Run(experts, hidden, ids, topkWeights), Oracle.Layer(experts.Shape, weights, hidden, ids, topkWeights));
        Assert.True(accuracy.CalcDiff <= 5e-4, accuracy.ToString());
    }
}
