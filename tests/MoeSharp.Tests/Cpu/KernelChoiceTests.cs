namespace MoeSharp.Tests;

public class KernelChoiceTests
{
    [Fact]
    public void EveryKernelHasANameAndAReason()
    {
        Assert.Distinct(GemmKernels.All.Select(kernel => kernel.Name));
        Assert.All(GemmKernels.All, kernel => Assert.NotEmpty(kernel.Reason));
        Assert.Contains(GemmKernels.All, kernel => kernel.IsSupported);
    }

    [Fact]
    public void AKernelCanBeNamed()
    {
        using ExpertWeights weights = new RandomExperts(2, 1, 128, 128, WeightFormat.Block128).Weights();
        foreach (IGemmKernel kernel in GemmKernels.All)
        {
            using var backend = new CpuBackend(1, kernel.Name);
            if (!kernel.IsSupported)
            {
                string message = Assert.Throws<UnsupportedException>(() => new FusedExperts(new ExpertsOptions { TopK = 1 }, weights, backend)).Message;
                Assert.Contains(kernel.Name, message, StringComparison.Ordinal);
                Assert.Contains(kernel.Reason, message, StringComparison.Ordinal);
                continue;
            }
            using var experts = new FusedExperts(new ExpertsOptions { TopK = 1 }, weights, backend);
            Assert.StartsWith($"{kernel.Name} on 1 thread", experts.Description, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void AnUnknownNameListsThoseThatExist()
    {
        using ExpertWeights weights = new RandomExperts(2, 1, 128, 128, WeightFormat.Block128).Weights();
        using var backend = new CpuBackend(1, "fastest");
        string message = Assert.Throws<UnsupportedException>(() => new FusedExperts(new ExpertsOptions { TopK = 1 }, weights, backend)).Message;
        Assert.Contains("'fastest'", message, StringComparison.Ordinal);
        Assert.Contains("managed-128", message, StringComparison.Ordinal);
    }
}
