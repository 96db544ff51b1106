namespace MoeSharp.Tests;

public class CudaBackendTests
{
    [Fact]
    public void AMachineWithoutADriverGetsASentence()
    {
        using var backend = new CudaBackend();
        Support support = backend.SupportsDevice();
        Assert.Equal("cuda", backend.Name);
        if (support.Reason is null) return; // a GPU is here: the tests beside this one use it
        Assert.Matches("(NVIDIA|GPU).*\\.$", support.Reason);
        using ExpertWeights weights = RandomLayer.Zeros(WeightFormat.Block128, 2, 128, 128);
        UnsupportedException refused = Assert.Throws<UnsupportedException>(() => new FusedExperts(new() { TopK = 1 }, weights, backend));
        Assert.Equal(support.Reason, refused.Message);
    }

    [Fact]
    public void FormatsAreAnsweredWithoutADriver()
    {
        using var backend = new CudaBackend();
        Assert.True(backend.SupportsFormat(WeightFormat.Block128, ActivationFormat.Fp8).IsSupported);
        Assert.True(backend.SupportsFormat(WeightFormat.MxFp8, ActivationFormat.Fp8).IsSupported);
        Assert.True(backend.SupportsFormat(WeightFormat.Block128, ActivationFormat.Bf16).IsSupported);
        Assert.Equal("BF16 weights take BF16 activations; FP8 activations need FP8 weights.", backend.SupportsFormat(WeightFormat.Bf16, ActivationFormat.Fp8).Reason);
    }

    [Theory, Trait("Category", "Cuda")]
    [InlineData(1, 128, 128)]
    [InlineData(33, 192, 96)]
    [InlineData(300, 384, 320)]
    [InlineData(700, 256, 256)]
    public void LayersAgreeWithTheReference(int tokens, int hidden, int intermediate)
    {
        using CudaBackend backend = Gpu.Open();
        foreach (WeightFormat format in new[] { WeightFormat.Block128, WeightFormat.Block128PowerOfTwo })
            foreach (Activation activation in new[] { Activation.Silu(), Activation.Silu(2), Activation.SwigluOai(), Activation.SwigluStep(), Activation.GeluTanh() })
            {
                using ExpertWeights weights = RandomLayer.Weights(format, 6, hidden, intermediate, 1);
                var options = new ExpertsOptions { TopK = 3, Activation = activation };
                using var ours = new FusedExperts(options, weights, backend);
                using var reference = new FusedExperts(options, weights, ExpertsBackends.Reference);
                BFloat16[] x = RandomLayer.Hidden(tokens, hidden, 2), a = new BFloat16[x.Length], b = new BFloat16[x.Length];
                int[] ids = RandomLayer.Ids(tokens, 3, 6, 3, dropped: 0.2);
                float[] w = RandomLayer.TopkWeights(tokens, 3, 4);
                ours.Forward(x, ids, w, a);
                reference.Forward(x, ids, w, b);
                double difference = Gpu.Difference(a, b);
                Assert.True(difference <= 5e-4, $"{format} {activation} T={tokens} H={hidden} I={intermediate}: calc_diff {difference:E2}");
            }
    }

    [Fact, Trait("Category", "Cuda")]
    public void ARowDoesNotDependOnItsBatch()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, 512, 384, 1);
        using var experts = new FusedExperts(new() { TopK = 2 }, weights, backend);
        const int tokens = 900;
        BFloat16[] x = RandomLayer.Hidden(tokens, 512, 2), all = new BFloat16[x.Length], one = new BFloat16[512];
        float[] w = RandomLayer.TopkWeights(tokens, 2, 4);
        foreach (int[] ids in new[] { RandomLayer.Ids(tokens, 2, 4, 3), Enumerable.Range(0, 2 * tokens).Select(i => i % 2 == 0 ? 1 : -1).ToArray() })
        {
            experts.Forward(x, ids, w, all);
            foreach (int t in new[] { 0, 1, 191, 192, 450, tokens - 1 })
            {
                experts.Forward(x.AsSpan(t * 512, 512), ids.AsSpan(2 * t, 2), w.AsSpan(2 * t, 2), one);
                Assert.True(one.AsSpan().SequenceEqual(all.AsSpan(t * 512, 512)), $"token {t} alone differs from itself among {tokens}");
            }
        }
    }

    [Fact, Trait("Category", "Cuda")]
    public void DroppedTokensGetZeros()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, 256, 128, 1);
        using var experts = new FusedExperts(new() { TopK = 2 }, weights, backend);
        var output = new BFloat16[5 * 256];
        output.AsSpan().Fill(BFloat16.FromSingle(7));
        experts.Forward(RandomLayer.Hidden(5, 256, 1), [-1, -1, -1, -1, -1, -1, -1, -1, -1, -1], new float[10], output);
        Assert.All(output, v => Assert.Equal(0f, v.ToSingle()));
    }

    [Fact, Trait("Category", "Cuda")]
    public void NaNWeightsAreRefusedByName()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 3, 256, 128, 1);
        unsafe
        {
            weights.Up[1].Storage.Values[5 * 256 + 7] = 0xFF;
        }
        CheckpointException refused = Assert.Throws<CheckpointException>(() => new FusedExperts(new() { TopK = 1 }, weights, backend));
        Assert.Contains("up of expert 1", refused.Message);
        using var allowed = new FusedExperts(new() { TopK = 1, AllowNaNWeights = true }, weights, backend);
    }
}
