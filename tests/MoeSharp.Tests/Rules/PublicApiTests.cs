namespace MoeSharp.Tests;

/// <summary>The public surface is recorded, so that every change of it shows in review. MOESHARP_RECORD_API=1 records it anew.</summary>
public class PublicApiTests
{
    public static TheoryData<Type, string> Assemblies => new() { { typeof(FusedExperts), "docs/public-api.txt" }, { typeof(CudaBackend), "docs/public-api-cuda.txt" } };

    [Theory]
    [MemberData(nameof(Assemblies))]
    public void SurfaceIsTheRecordedOne(Type one, string record)
    {
        string surface = PublicApi.Render(one.Assembly);
        if (Environment.GetEnvironmentVariable("MOESHARP_RECORD_API") == "1") File.WriteAllText(Repository.PathOf(record), surface);
        string[] recorded = Repository.ReadText(record).ReplaceLineEndings("\n").Split('\n'), actual = surface.Split('\n');
        string added = string.Join('\n', actual.Except(recorded)), removed = string.Join('\n', recorded.Except(actual));
        Assert.True(recorded.SequenceEqual(actual),
            $"The public surface changed. If that is meant, run this test with MOESHARP_RECORD_API=1 and commit {record}.\nadded:\n{added}\nremoved:\n{removed}");
    }

    [Theory]
    [InlineData(typeof(FusedExperts))]
    [InlineData(typeof(CudaBackend))]
    public void OneNamespace(Type one) =>
        Assert.All(one.Assembly.GetExportedTypes(), t => Assert.Equal("MoeSharp", t.Namespace));
}
