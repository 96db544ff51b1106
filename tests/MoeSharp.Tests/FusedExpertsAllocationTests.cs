namespace MoeSharp.Tests;

/// <summary>Alone, since allocations of other tests would be counted.</summary>
[CollectionDefinition(nameof(FusedExpertsAllocationTests), DisableParallelization = true)]
[Collection(nameof(FusedExpertsAllocationTests))]
public class FusedExpertsAllocationTests
{
    [Theory, MemberData(nameof(FusedExpertsBitsTests.Schemes), MemberType = typeof(FusedExpertsBitsTests))]
    public void SteadyStateAllocatesNothing(string backend, WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights weights = RandomLayer.Weights(format, 4, 192, 96, 1);
        using var experts = new FusedExperts(new() { TopK = 2, Activations = activations }, weights, ExpertsBackends.ByName(backend));
        using var small = new Workspace(experts.PlanWorkspace(3).Bytes);
        BFloat16[] hidden = RandomLayer.Hidden(8, 192, 2), output = new BFloat16[8 * 192];
        int[] ids = RandomLayer.Ids(8, 2, 4, 3), counts = [.. Enumerable.Range(0, 4).Select(e => ids.Count(id => id == e))];
        float[] topkWeights = RandomLayer.TopkWeights(8, 2, 4);
        Measure(null);
        (long thread, long process) = (long.MaxValue, long.MaxValue);
        for (int attempt = 0; attempt < 5 && (thread > 0 || process > 0); attempt++)
        {
            (long t, long p) = Measure(null);
            (long t2, long p2) = Measure(small); // in chunks
            (thread, process) = (t + t2, p + p2);
        }
        Assert.Equal((0, 0), (thread, process));

        (long Thread, long Process) Measure(Workspace? workspace)
        {
            long thread = GC.GetAllocatedBytesForCurrentThread(), process = GC.GetTotalAllocatedBytes(precise: true);
            for (int n = 0; n < 20; n++)
                experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = topkWeights, ExpertCounts = counts }, output, workspace);
            return (GC.GetAllocatedBytesForCurrentThread() - thread, GC.GetTotalAllocatedBytes(precise: true) - process);
        }
    }
}
