using System.Diagnostics;

namespace MoeSharp.Tests;

/// <summary>Loading on a machine that counts what is allocated: exact sizes, and nothing left behind by loads that fail or are stopped.</summary>
[Collection(nameof(Emulator))]
public class EmulatedLoadTests
{
    public EmulatedLoadTests() => Emulator.Start();

    [Theory]
    [InlineData(3, 256, 384, 0)]
    [InlineData(1, 128, 128, 0)]
    [InlineData(2, 192, 96, 3 * 2 * (256 * 128 - 192 * 96))]
    public void TheFigureAskedForBeforehandIsWhatIsAllocated(int experts, int hidden, int intermediate, long padding)
    {
        using CudaBackend backend = Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, experts, hidden, intermediate, 1);
        CudaWeightMemory memory = CudaBackend.WeightMemory(weights);
        long before = Emulator.Get("bytes");
        using var layer = new FusedExperts(new() { TopK = 1 }, weights, backend);
        Assert.Equal((memory.Weights + 511) / 512 * 512, Emulator.Get("bytes") - before);
        Assert.Equal(0, Emulator.Get("pinned"));
        Assert.Equal(padding, memory.Padding);
        if (padding == 0) Assert.InRange(memory.Weights, weights.Bytes, 1.02 * weights.Bytes);
    }

    /// <summary>Values pass through pinned memory only, and while a stream still has a piece to copy its thread reads the next.</summary>
    [Fact]
    public void ReadingAPieceOverlapsTheCopyOfTheOneBefore()
    {
        using CudaBackend backend = Open();
        using ExpertWeights weights = RandomLayer.Zeros(WeightFormat.Block128, 40, 256, 128);
        using (backend.Prepare(ExpertsShape.From(new() { TopK = 1 }, weights), weights, false)) { }
        Assert.Equal(2, Emulator.Get("pinned copies"));
        Assert.InRange(Emulator.Get("pageable"), 1, weights.Bytes / 100); // scales and a counter
    }

    [Fact]
    public void ALayerThatIsLoadedAndDisposedLeavesNothing()
    {
        using CudaBackend backend = Open();
        string before = Emulator.InUse();
        Assert.Equal("", EmulatedMachineTests.Difference(backend, 3));
        Assert.Equal(before, Emulator.InUse());
    }

    [Fact]
    public void ALoadThatIsStoppedEndsWithItsPieceAndLeavesNothing()
    {
        using CudaBackend backend = Open();
        using ExpertWeights weights = RandomLayer.Zeros(WeightFormat.Block128, 60, 256, 128);
        string before = Emulator.InUse();
        using var stop = new CancellationTokenSource();
        int last = 0;
        var progress = new Told(p =>
        {
            Assert.Equal(LoadStage.Prepare, p.Stage);
            last = Math.Max(last, p.Done * 100 / p.Total);
            stop.Cancel();
        });
        ExpertsShape shape = ExpertsShape.From(new() { TopK = 1 }, weights);
        OperationCanceledException stopped = Assert.Throws<OperationCanceledException>(() => backend.Prepare(shape, weights, false, progress, stop.Token));
        Assert.Equal(stop.Token, stopped.CancellationToken);
        Assert.InRange(last, 0, 20); // 120 pieces; each of at most eight lanes ends the one it has
        Assert.Equal(before, Emulator.InUse());
        Assert.Throws<OperationCanceledException>(() => backend.Prepare(shape, weights, false, null, stop.Token));
        Assert.Equal(before, Emulator.InUse());
        long started = Stopwatch.GetTimestamp();
        using IPreparedExperts whole = backend.Prepare(shape, weights, false, new Told(p => last = p.Done * 100 / p.Total), default);
        Assert.Equal(100, last);
        Assert.True(Stopwatch.GetElapsedTime(started).TotalSeconds < 60);
    }

    [Fact]
    public void ALoadThatFailsLeavesNothing()
    {
        using CudaBackend backend = Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 3, 256, 128, 1), withNaN = RandomLayer.Weights(WeightFormat.Block128, 3, 256, 128, 1);
        unsafe
        {
            withNaN.Down[2].Storage.Values[5 * 128 + 7] = 0x7F;
        }
        string before = Emulator.InUse();
        CheckpointException refused = Assert.Throws<CheckpointException>(() => new FusedExperts(new() { TopK = 1 }, withNaN, backend));
        using var cpu = new CpuBackend(1);
        Assert.Equal(Assert.Throws<CheckpointException>(() => new FusedExperts(new() { TopK = 1 }, withNaN, cpu)).Message, refused.Message);
        Assert.Equal(before, Emulator.InUse());
        CudaWeightMemory memory = CudaBackend.WeightMemory(weights);
        foreach (long spare in new[] { 0, 600, 600 + memory.Loading / 2 }) // for the weights; for the count; for half of the staging
        {
            Emulator.Set("memory_bytes", Emulator.Get("bytes") + (spare == 0 ? memory.Weights - 512 : memory.Weights + 511 + spare));
            CudaException full = Assert.Throws<CudaException>(() => new FusedExperts(new() { TopK = 1 }, weights, backend));
            Assert.Matches(spare == 0 ? "for the weights of 3 experts but .* are free" : "for staging of weights but .* are free", full.Message);
            Assert.Equal(before, Emulator.InUse());
        }
        Emulator.Set("memory_bytes", 8L << 30);
        Assert.Equal("", EmulatedMachineTests.Difference(backend, 2));
    }

    private static CudaBackend Open()
    {
        CudaBackend backend = Gpu.Open();
        _ = backend.Kernels();
        return backend;
    }

    private sealed class Told(Action<LoadProgress> told) : IProgress<LoadProgress>
    {
        public void Report(LoadProgress value)
        {
            lock (told) told(value);
        }
    }
}
