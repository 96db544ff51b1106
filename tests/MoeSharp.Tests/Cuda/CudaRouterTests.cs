namespace MoeSharp.Tests;

/// <summary>The router's kernels against the library's router: the same ids and the same bits of weights.</summary>
[Collection(nameof(Emulator))]
public class CudaRouterTests
{
    private static readonly (string Name, RouterOptions Options)[] s_rules =
    [
        ("qwen3", new() { Experts = 128, TopK = 8, Scoring = RouterScoring.Softmax, Renormalize = true }),
        ("mixtral", new() { Experts = 8, TopK = 2, Scoring = RouterScoring.Softmax, Renormalize = true }),
        ("qwen3-next", new() { Experts = 512, TopK = 10, Scoring = RouterScoring.Softmax, Renormalize = true }),
        ("plain softmax", new() { Experts = 60, TopK = 4, Scoring = RouterScoring.Softmax }),
        ("deepseek-v3", new()
        {
            Experts = 256, TopK = 8, Scoring = RouterScoring.Sigmoid, Groups = 8, TopkGroups = 4, Renormalize = true, RenormalizeEpsilon = 1e-20f, ScalingFactor = 2.5f,
        }),
        ("glm-4.5", new() { Experts = 160, TopK = 8, Scoring = RouterScoring.Sigmoid, Renormalize = true, RenormalizeEpsilon = 1e-20f, ScalingFactor = 2.5f }),
        ("minimax-m2", new() { Experts = 256, TopK = 8, Scoring = RouterScoring.Sigmoid, Renormalize = true }),
        ("ernie-4.5", new() { Experts = 64, TopK = 6, Scoring = RouterScoring.Softmax, Renormalize = true, RenormalizeMinimum = 1e-12f }),
        ("gpt-oss", new() { Experts = 32, TopK = 4, Scoring = RouterScoring.TopkSoftmax }),
        ("groups of one", new() { Experts = 12, TopK = 3, Scoring = RouterScoring.Sigmoid, Groups = 12, TopkGroups = 5 }),
        ("softmax in groups", new() { Experts = 60, TopK = 6, Scoring = RouterScoring.Softmax, Groups = 6, TopkGroups = 3, ScalingFactor = 16f }),
        ("all experts", new() { Experts = 7, TopK = 7, Scoring = RouterScoring.TopkSoftmax }),
    ];

    public static TheoryData<string> Rules => [.. s_rules.Select(rule => rule.Name)];

    [Theory, Trait("Category", "Cuda"), MemberData(nameof(Rules))]
    public void HiddenStatesGoWhereTheLibrarySendsThem(string rule)
    {
        using CudaBackend gpu = Gpu.Open();
        RouterOptions options = s_rules.Single(r => r.Name == rule).Options;
        foreach ((int tokens, int hidden, bool biases) in new[] { (1, 96, true), (3, 50, false), (16, 64, true), (37, 33, true) })
        {
            Router router = Random(options, hidden, tokens, biases);
            BFloat16[] x = RandomLayer.Hidden(tokens, hidden, tokens);
            int[] wantIds = new int[tokens * options.TopK];
            float[] wantWeights = new float[wantIds.Length];
            router.Route(x, wantIds, wantWeights);
            using var routed = new Routed(gpu, router, tokens);
            using var states = new DeviceBuffer(gpu.Context(), 2L * x.Length + 16, "hidden states");
            states.Upload<BFloat16>(x, routed.Stream);
            routed.Router.Route(routed.Stream.Raw, tokens, (nint)states.Address, routed.LogitsAddress, routed.IdsAddress, routed.WeightsAddress);
            AssertEqual($"{rule}, T={tokens}, H={hidden}", options.TopK, wantIds, wantWeights, routed);
        }
    }

    /// <summary>Ties, NaN and both infinities: ids stay valid and distinct, the lowest wins among equals.</summary>
    [Theory, Trait("Category", "Cuda"), MemberData(nameof(Rules))]
    public void LogitsOfTheCallerMayBeAnything(string rule)
    {
        using CudaBackend gpu = Gpu.Open();
        RouterOptions options = s_rules.Single(r => r.Name == rule).Options;
        int e = options.Experts, tokens = 9;
        var logits = new float[tokens * e];
        var random = new Random(3);
        for (int i = 0; i < logits.Length; i++)
            logits[i] = (i / e) switch
            {
                0 => 0f,                                             // all tie
                1 => float.NaN,
                2 => float.NegativeInfinity,
                3 => i % 5 == 0 ? float.PositiveInfinity : i % 7 == 0 ? float.NaN : i % 3,
                4 => random.Next(3),                                 // many ties
                5 => i % 2 == 0 ? 0f : -0f,
                6 => 1e38f * (random.NextSingle() - 0.5f),
                _ => 4 * random.NextSingle() - 2,
            };
        var bias = new float[e];
        for (int i = 0; i < e; i++) bias[i] = i % 4 * 0.25f;
        foreach (float[] correction in new[] { [], bias })
        {
            var selector = new ExpertSelector(options, correction.Length == 0 ? null : correction);
            int[] wantIds = new int[tokens * options.TopK];
            float[] wantWeights = new float[wantIds.Length];
            for (int t = 0; t < tokens; t++)
                selector.Select(logits.AsSpan(t * e, e).ToArray(), wantIds.AsSpan(t * options.TopK, options.TopK), wantWeights.AsSpan(t * options.TopK, options.TopK));
            using var routed = new Routed(gpu, new Router(options, new float[e * 16], default, correction), tokens);
            routed.Logits.Upload<float>(logits, routed.Stream);
            routed.Router.Select(routed.Stream.Raw, tokens, routed.LogitsAddress, routed.IdsAddress, routed.WeightsAddress);
            AssertEqual($"{rule}, {(correction.Length == 0 ? "no" : "a")} correction bias", options.TopK, wantIds, wantWeights, routed);
        }
    }

    [Fact, Trait("Category", "Cuda")]
    public void MisuseGetsASentence()
    {
        using CudaBackend gpu = Gpu.Open();
        using var routed = new Routed(gpu, Random(s_rules[0].Options, 32, 1, biases: false), 1);
        Assert.Contains("hidden is a null pointer",
            Assert.Throws<ArgumentException>(() => routed.Router.Route(routed.Stream.Raw, 1, 0, routed.LogitsAddress, routed.IdsAddress, routed.WeightsAddress)).Message);
        Assert.Contains("not a multiple of 4 bytes",
            Assert.Throws<ArgumentException>(() => routed.Router.Select(routed.Stream.Raw, 1, routed.LogitsAddress + 2, routed.IdsAddress, routed.WeightsAddress)).Message);
        routed.Router.Route(routed.Stream.Raw, 0, 0, 0, 0, 0); // no tokens, nothing to do
        var many = new Router(new() { Experts = 4096, TopK = 8, Scoring = RouterScoring.Sigmoid }, new float[4096]);
        Assert.Contains("4096 experts", Assert.Throws<UnsupportedException>(() => new CudaRouter(gpu, many)).Message);
    }

    [Fact]
    public void StructsHaveTheSizesThatTheKernelsAssert()
    {
        string asserted = File.ReadAllText(Repository.PathOf("kernels/include/route_arguments.cuh"));
        int logits = System.Runtime.CompilerServices.Unsafe.SizeOf<LogitsArguments>(), select = System.Runtime.CompilerServices.Unsafe.SizeOf<SelectArguments>();
        Assert.Contains($"sizeof(LogitsArguments) == {logits} && sizeof(SelectArguments) == {select}", asserted);
        foreach ((Type type, string field, string twin) in new[]
        {
            (typeof(LogitsArguments), nameof(LogitsArguments.Tokens), "tokens"), (typeof(SelectArguments), nameof(SelectArguments.Tokens), "tokens"),
            (typeof(SelectArguments), nameof(SelectArguments.WarpWords), "warp_words"),
        })
            Assert.Contains($"offset_of({type.Name}, {twin}) == {System.Runtime.InteropServices.Marshal.OffsetOf(type, field)}", asserted);
    }

    private static Router Random(RouterOptions options, int hidden, int seed, bool biases)
    {
        var random = new Random(seed);
        float[] Values(int count) => [.. Enumerable.Range(0, count).Select(_ => random.NextSingle() - 0.5f)];
        return new Router(options, Values(options.Experts * hidden), biases ? Values(options.Experts) : default, biases ? Values(options.Experts) : default);
    }

    private static void AssertEqual(string what, int topK, int[] wantIds, float[] wantWeights, Routed routed)
    {
        (int[] ids, float[] weights) = routed.Download(wantIds.Length);
        for (int i = 0; i < wantIds.Length; i++)
            Assert.True(ids[i] == wantIds[i] && BitConverter.SingleToInt32Bits(weights[i]) == BitConverter.SingleToInt32Bits(wantWeights[i]),
                $"{what}: token {i / topK} slot {i % topK} goes to {ids[i]} with {weights[i]:R}, the library sends it to {wantIds[i]} with {wantWeights[i]:R}");
    }

    /// <summary>A router on the GPU with room for what it writes.</summary>
    private sealed class Routed : IDisposable
    {
        private readonly DeviceBuffer _ids, _weights;

        public Routed(CudaBackend gpu, Router router, int tokens)
        {
            Router = new CudaRouter(gpu, router);
            Stream = new CudaStream(gpu.Context());
            Logits = new(gpu.Context(), 4L * tokens * router.Experts, "logits");
            _ids = new(gpu.Context(), 4L * tokens * router.TopK, "ids");
            _weights = new(gpu.Context(), 4L * tokens * router.TopK, "weights");
        }

        public CudaRouter Router { get; }
        public CudaStream Stream { get; }
        public DeviceBuffer Logits { get; }
        public nint LogitsAddress => (nint)Logits.Address;
        public nint IdsAddress => (nint)_ids.Address;
        public nint WeightsAddress => (nint)_weights.Address;

        public (int[] Ids, float[] Weights) Download(int slots)
        {
            var ids = new int[slots];
            var weights = new float[slots];
            _ids.Download<int>(ids, Stream);
            _weights.Download<float>(weights, Stream);
            return (ids, weights);
        }

        public void Dispose()
        {
            Stream.Dispose();
            Router.Dispose();
            foreach (DeviceBuffer buffer in (DeviceBuffer[])[Logits, _ids, _weights]) buffer.Dispose();
        }
    }
}

/// <summary>Some of them in every test run.</summary>
[Collection(nameof(Emulator))]
public class EmulatedRouterTests
{
    public EmulatedRouterTests() => Emulator.Start();

    [Theory]
    [InlineData("deepseek-v3")]
    [InlineData("gpt-oss")]
    [InlineData("qwen3")]
    public void RulesOfModelsAreThoseOfTheLibrary(string rule)
    {
        new CudaRouterTests().HiddenStatesGoWhereTheLibrarySendsThem(rule);
        new CudaRouterTests().LogitsOfTheCallerMayBeAnything(rule);
    }
}
