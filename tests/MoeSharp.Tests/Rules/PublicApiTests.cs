namespace MoeSharp.Tests;

/// <summary>The public surface is recorded, so that every change of it shows in review. MOESHARP_RECORD_API=1 records it anew.</summary>
public class PublicApiTests
{
    private const string Record = "docs/public-api.txt";

    [Fact]
    public void SurfaceIsTheRecordedOne()
    {
        string surface = PublicApi.Render(typeof(FusedExperts).Assembly);
        if (Environment.GetEnvironmentVariable("MOESHARP_RECORD_API") == "1") File.WriteAllText(Repository.PathOf(Record), surface);
        string[] recorded = Repository.ReadText(Record).ReplaceLineEndings("\n").Split('\n'), actual = surface.Split('\n');
        string added = string.Join('\n', actual.Except(recorded)), removed = string.Join('\n', recorded.Except(actual));
        Assert.True(recorded.SequenceEqual(actual),
            $"The public surface changed. If that is meant, run this test with MOESHARP_RECORD_API=1 and commit {Record}.\nadded:\n{added}\nremoved:\n{removed}");
    }

    [Fact]
    public void OneNamespace() =>
        Assert.All(typeof(FusedExperts).Assembly.GetExportedTypes(), t => Assert.Equal("MoeSharp", t.Namespace));
}
