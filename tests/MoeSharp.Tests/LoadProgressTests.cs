using System.Runtime.InteropServices;

namespace MoeSharp.Tests;

/// <summary>Alone, since other tests' memory would be counted.</summary>
[CollectionDefinition(nameof(LoadProgressTests), DisableParallelization = true)]
[Collection(nameof(LoadProgressTests))]
public class LoadProgressTests
{
    private static readonly string s_sample = Repository.PathOf("samples/tiny-qwen3-moe-fp8");

    [Fact]
    public void ProgressComesInOrderAndEnds()
    {
        var seen = new Reports();
        using var model = Checkpoint.Open(s_sample);
        using MoeLayer layer = MoeLayer.Load(model, 1, progress: seen);
        LoadProgress[] read = [.. seen.All.Where(p => p.Stage == LoadStage.Read)], prepare = [.. seen.All.Where(p => p.Stage == LoadStage.Prepare)];
        Assert.Equal(Enumerable.Range(0, 17), read.Select(p => p.Done));
        Assert.All(read, p => Assert.Equal(16, p.Total));
        Assert.Equal(seen.All, [.. read, .. prepare]);
        Assert.Equal(prepare[^1].Total, prepare[^1].Done);
        Assert.Equal(prepare.Select(p => p.Done).Order(), prepare.Select(p => p.Done));
    }

    /// <summary>At every report of a load, a token is cancelled: the load throws, and no native memory that it took is left.</summary>
    [Theory, InlineData(null), InlineData(33)]
    public void CancelledAnywhereNothingIsLeft(int? firstRow)
    {
        using var model = Checkpoint.Open(s_sample);
        MoeLayerOptions options = firstRow is int first ? new() { Selection = new() { Intermediate = (first, 64) } } : new(); // a slice makes copies
        var all = new Reports();
        MoeLayer.Load(model, 1, options, all).Dispose();
        long before = NativeBuffer.LiveBytes;
        for (int at = 0; at < all.All.Count - 1; at++)
        {
            using var stop = new CancellationTokenSource();
            var reports = new Reports { At = at, Stop = stop };
            Assert.ThrowsAny<OperationCanceledException>(() => MoeLayer.Load(model, 1, options, reports, stop.Token));
            Assert.True(reports.All.Count >= at + 1, $"cancelled at report {at} but {reports.All.Count} came");
            Assert.Equal(before, NativeBuffer.LiveBytes);
        }
    }

    [Fact]
    public void CancelledBeforeItStarts()
    {
        using var model = Checkpoint.Open(s_sample);
        Assert.ThrowsAny<OperationCanceledException>(() => MoeLayer.Load(model, 1, cancellation: new CancellationToken(canceled: true)));
        Assert.ThrowsAny<OperationCanceledException>(() => model.ReadLayer(1, cancellation: new CancellationToken(canceled: true)));
    }

    /// <summary>Weights hold their files mapped beyond the checkpoint's end; those of a cancelled load do not.</summary>
    [Theory, InlineData(true), InlineData(false)]
    public void MappingsAreReleased(bool cancelled)
    {
        var model = Checkpoint.Open(s_sample);
        SafeHandle[] mappings = [.. model.Index.Names.Select(n => model.Index.Find(n).File.Mapping).Distinct()];
        LayerParts? parts = null;
        using var stop = new CancellationTokenSource();
        if (cancelled) Assert.ThrowsAny<OperationCanceledException>(() => MoeLayer.Load(model, 1, progress: new Reports { At = 17, Stop = stop }, cancellation: stop.Token));
        else parts = model.ReadLayer(1);
        model.Dispose();
        Assert.Equal(cancelled, mappings.All(m => m.IsClosed));
        parts?.Dispose();
        Assert.All(mappings, m => Assert.True(m.IsClosed));
    }

    private sealed class Reports : IProgress<LoadProgress>
    {
        public List<LoadProgress> All { get; } = [];
        public int At { get; init; } = -1;
        public CancellationTokenSource? Stop { get; init; }

        public void Report(LoadProgress value)
        {
            lock (All)
            {
                if (All.Count == At) Stop!.Cancel();
                All.Add(value);
            }
        }
    }
}
