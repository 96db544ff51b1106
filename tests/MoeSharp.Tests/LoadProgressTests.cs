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
        for (int at = 0; at < all.All.Count - 1; at++)
        {
            // Memory is counted for the whole process, where another test's may come or go: only what every try leaves is this load's.
            long left = long.MaxValue;
            for (int attempt = 0; attempt < 5 && left > 0; attempt++) left = Math.Min(left, LeftByCancelling(model, options, at));
            Assert.True(left <= 0, $"cancelled at report {at} of {all.All.Count}, the load left {left} bytes");
        }
    }

    private static long LeftByCancelling(Checkpoint model, MoeLayerOptions options, int at)
    {
        using var stop = new CancellationTokenSource();
        var reports = new Reports { At = at, Stop = stop };
        long before = NativeBuffer.LiveBytes;
        bool cancelled = false;
        try
        {
            MoeLayer.Load(model, 1, options, reports, stop.Token).Dispose();
        }
        catch (OperationCanceledException)
        {
            cancelled = true;
        }
        // Threads that finish together make one report of two, so that the last ones need not come in each load.
        Assert.Equal((at, reports.All.Count > at), (at, cancelled));
        return NativeBuffer.LiveBytes - before;
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
