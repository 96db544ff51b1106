namespace MoeSharp.Tests;

/// <summary>What docs/own-router.md shows.</summary>
public class OwnRouterTests
{
    private const int Tokens = 5;

    [Fact]
    public void FromACheckpoint()
    {
        const int index = 1;
        using var model = Checkpoint.Open(Repository.PathOf("samples/tiny-qwen3-moe-fp8"));
        using var layer = MoeLayer.Load(model, index);
        BFloat16[] hidden = [.. Enumerable.Range(0, Tokens * model.HiddenSize).Select(i => (BFloat16)MathF.Sin(i))], expected = new BFloat16[hidden.Length], output = new BFloat16[hidden.Length];
        var topkIds = new int[Tokens * layer.Router.TopK];
        var topkWeights = new float[topkIds.Length];
        layer.Forward(hidden, expected);
        layer.Router.Route(hidden, topkIds, topkWeights);                // or anything else that fills them
        layer.Forward(hidden, topkIds, topkWeights, output);
        Assert.Equal(expected, output);
        topkIds[1] = topkIds[0]; // twice the same expert
        topkIds[2] = -1;
        layer.Forward(hidden, topkIds, topkWeights, expected);
        using LayerParts parts = model.ReadLayer(index);                 // checked against the config, nothing laid out yet
        using var experts = new FusedExperts(parts.ExpertsOptions, parts.Experts);
        experts.Forward(hidden, topkIds, topkWeights, output);           // [T, H], [T, K], [T, K], [T, H]
        Assert.Equal(expected, output); // Qwen3 has no shared experts

        long[] ids64 = [.. topkIds.Select(id => (long)id)];
        var sums = new float[hidden.Length];
        using var workspace = new Workspace(experts.WorkspaceBytes(Tokens));
        experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds64 = ids64, TopkWeights = topkWeights }, sums, workspace);   // sums: FP32
        Assert.Equal(output, sums.Select(s => (BFloat16)s));
        Array.Fill(topkIds, -1);
        experts.Forward(hidden, topkIds, topkWeights, output);
        Assert.All(output, value => Assert.Equal(0, value.Bits));
    }

    [Fact]
    public void FromArrays()
    {
        var random = new Random(3);
        Float8E4M3[] Codes(int count) => [.. Enumerable.Range(0, count).Select(_ => Float8E4M3.FromSingle((random.NextSingle() - 0.5f) * 100))];
        float[] Scales(int count) => [.. Enumerable.Repeat(0.001f, count)];
        Float8E4M3[] w13 = Codes(4 * 256 * 256), w2 = Codes(4 * 256 * 128);
        float[] w13Scale = Scales(4 * 2 * 2), w2Scale = Scales(4 * 2 * 1);
        using var weights = ExpertWeights.FromPacked(
            WeightFormat.Block128, experts: 4, hidden: 256, intermediate: 128, w13, w13Scale, w2, w2Scale);               // [E, 2I, H], [E, 2I/128, H/128], [E, H, I], [E, H/128, I/128]
        using var packed = new FusedExperts(new() { TopK = 2, Activation = Activation.Silu(limit: 7) }, weights);
        BFloat16[] hidden = [.. Enumerable.Range(0, 256).Select(i => (BFloat16)MathF.Sin(i))], output = new BFloat16[256];
        packed.Forward(hidden, [0, 3], [0.5f, 0.5f], output);
        Assert.Contains(output, value => value.ToSingle() != 0);
    }
}
