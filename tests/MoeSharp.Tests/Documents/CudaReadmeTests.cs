namespace MoeSharp.Tests;

/// <summary>What the page of the package MoeSharp.Cuda shows, where there is a GPU and where there is none.</summary>
public class CudaReadmeTests
{
    [Fact]
    public void LoadsOrSaysWhyNot()
    {
        using var model = Checkpoint.Open(Repository.PathOf("samples/tiny-qwen3-moe-fp8"));
        string? reason = new CudaBackend().SupportsDevice().Reason;
        if (reason is null) LoadOnGpu(model);
        else Assert.Equal(reason, Assert.Throws<UnsupportedException>(() => LoadOnGpu(model)).Message);
    }

    private static void LoadOnGpu(Checkpoint model)
    {
        using var gpu = new CudaBackend();
        Console.WriteLine(gpu.SupportsDevice().Reason ?? "ready");       // one sentence where there is no Hopper GPU
        using var layer = MoeLayer.Load(model, layer: 1, new() { Backend = gpu });
        Assert.Equal("cuda", layer.Experts.Backend.Name);
    }
}
