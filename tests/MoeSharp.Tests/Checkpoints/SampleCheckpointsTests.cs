namespace MoeSharp.Tests;

/// <summary>The eleven checkpoints in real layouts: every MoE layer reads with strict accounting.</summary>
public class SampleCheckpointsTests
{
    [Theory]
    [InlineData("deepseek-v3-fp8", WeightFormat.Block128)]
    [InlineData("deepseek-v3.1-ue8m0", WeightFormat.Block128PowerOfTwo)]
    [InlineData("dots1-fp8", WeightFormat.Block128)]
    [InlineData("ernie4-5-moe-fp8", WeightFormat.Block128)]
    [InlineData("glm4-moe-fp8", WeightFormat.Block128)]
    [InlineData("gpt-oss-bf16", WeightFormat.Bf16)]
    [InlineData("minimax-m2-fp8", WeightFormat.Block128)]
    [InlineData("mixtral-fp8", WeightFormat.Block128)]
    [InlineData("qwen3-moe-fp8", WeightFormat.Block128)]
    [InlineData("qwen3-moe-mxfp8", WeightFormat.MxFp8)]
    [InlineData("qwen3-next-fp8", WeightFormat.Block128)]
    public void EveryLayerReads(string name, WeightFormat format)
    {
        string? folder = SharedData.Find($"checkpoints/{name}");
        Assert.SkipWhen(folder is null, "shared/checkpoints is not here");
        using Checkpoint model = Checkpoint.Open(folder);
        Assert.NotEmpty(model.MoeLayers);
        foreach (int layer in model.MoeLayers)
        {
            using LayerParts parts = model.ReadLayer(layer);
            Assert.Equal(format, parts.Experts.Format);
            Assert.Equal(model.HiddenSize, parts.Experts.HiddenSize);
            Assert.Equal(parts.Router.Experts, parts.Experts.Count);
        }
    }
}
