using System.Diagnostics;
using static MoeSharp.Tests.CudaQueueTests;

namespace MoeSharp.Tests;

/// <summary>Device pointers and streams on a machine that can be told to fail.</summary>
[Collection(nameof(Emulator))]
public class EmulatedQueueTests
{
    private static readonly int[] s_ids = [0, 1, 2, 3, 3, -1];
    private readonly CudaQueueTests _tests;

    public EmulatedQueueTests(ITestOutputHelper log)
    {
        Emulator.Start();
        _tests = new(log);
    }

    [Fact]
    public void PointersGiveTheBitsOfSpans() => _tests.PointersGiveTheBitsOfSpans();

    [Fact]
    public void PointersThatCannotBeAreRefusedByName() => _tests.PointersThatCannotBeAreRefusedByName();

    [Fact]
    public void ACapturedCallReplaysUnderOtherRoutings() => _tests.ACapturedCallReplaysUnderOtherRoutings();

    [Fact]
    public void ACapturedOneLaunchKeepsItsHandoff() => _tests.ACapturedOneLaunchKeepsItsHandoff();

    [Fact]
    public void ACaptureInGivenMemoryTakesOneLaunchOnceItIsReserved() => _tests.ACaptureInGivenMemoryTakesOneLaunchOnceItIsReserved();

    [Fact]
    public void SharedExpertsAreOneMoreSlot()
    {
        var tests = new CudaSharedExpertsTests();
        tests.ALayerWithoutGateGivesTheBitsOfSpans(1);
        tests.ChunksAndGraphsGiveTheSameBits();
    }

    /// <summary>The gate is copied to the GPU with the first call or Reserve.</summary>
    [Fact]
    public void AGateMustBeThereBeforeACapture()
    {
        using CudaBackend backend = Gpu.Open();
        using var layer = new MoeLayer(new TinyLayer().Parts(), new() { Backend = backend });
        using var caller = new Caller(backend, layer.Experts, 3);
        using var queue = new CudaQueue(backend, caller.Stream.Raw);
        using CudaGraph graph = caller.Stream.Capture(() => Assert.Equal("The stream captures and the gate of the shared experts is not on the GPU yet; call Reserve before the capture.",
            Assert.Throws<InvalidOperationException>(() => queue.Forward(layer, caller.Call)).Message));
        Assert.Equal(0, graph.Nodes);
    }

    [Fact]
    public void ACallTakesFewMicrosecondsOfTheHostAndAllocatesNothing()
    {
        Emulator.Set("idle", 1);
        _tests.MeasureHost();
    }

    /// <summary>The emulator runs work when somebody waits for it.</summary>
    [Fact]
    public unsafe void NothingIsWaitedFor()
    {
        using var at = new Case(tokens: 3);
        at.Caller.Route(s_ids);
        long streams = Emulator.Get("streams");
        at.Queue.Forward(at.Layer, at.Caller.Call);
        Assert.True(*(uint*)at.Caller.Call.Output == uint.MaxValue, "the kernels ran before anybody waited for them");
        Assert.Equal(streams, Emulator.Get("streams"));
        Same(at.Caller.WithSpans(s_ids), at.Caller.Output<BFloat16>(), "afterwards");
    }

    [Fact]
    public void PointersAndStreamsOfAnotherGpuAreRefused()
    {
        Emulator.Set("gpus", 2);
        using var at = new Case(tokens: 3);
        using var second = new CudaBackend(1);
        using var there = new DeviceBuffer(second.Context(), 4096, "elsewhere");
        using var stream = new CudaStream(second.Context());
        Assert.Equal($"hidden_states (0x{there.Raw:x}) lies in memory of GPU 1 but the layer is on GPU 0; copy it there.",
            Assert.Throws<ArgumentException>(() => at.Queue.Forward(at.Layer, at.Caller.Call with { Hidden = there.Raw })).Message);
        Assert.StartsWith("The stream belongs to a context of GPU 1 but the layers run in the primary context of GPU 0; create the stream there",
            Assert.Throws<ArgumentException>(() => new CudaQueue(at.Backend, stream.Raw)).Message);
        Assert.Contains("lies in memory of GPU 1", Assert.Throws<ArgumentException>(() => new CudaQueue(at.Backend, 0, there.Raw, 4096)).Message);
        using var queue = new CudaQueue(second, stream.Raw);
        Assert.StartsWith("The experts are on GPU 0 but the queue is of GPU 1.", Assert.Throws<ArgumentException>(() => queue.Forward(at.Layer, at.Caller.Call)).Message);
    }

    [Fact]
    public void AWorkspaceThatDoesNotFitIsNamedAndSmallerCallsStillRun()
    {
        using var at = new Case(tokens: 3);
        long needed = at.Queue.WorkspaceBytes(at.Layer, 50_000), used = Emulator.Get("bytes");
        Emulator.Set("memory_bytes", used + 1_000_000);
        CudaException full = Assert.Throws<CudaException>(() => at.Queue.Reserve(at.Layer, 50_000));
        Assert.Equal($"{needed:N0} bytes were asked for on GPU 0 for the workspace of 50000 tokens but 1,000,000 are free; load fewer layers or lower the token count.", full.Message);
        Assert.Equal(used, Emulator.Get("bytes"));
        at.Caller.Route(s_ids);
        at.Queue.Forward(at.Layer, at.Caller.Call);
        Same(at.Caller.WithSpans(s_ids), at.Caller.Output<BFloat16>(), "a smaller call");
    }

    [Fact]
    public void AFaultSurfacesWhereTheProgramWaitsAndAtTheNextCall()
    {
        using var at = new Case(tokens: 3);
        Emulator.Set("fault", 1);
        at.Queue.Forward(at.Layer, at.Caller.Call);
        CudaException waited = Assert.Throws<CudaException>(at.Caller.Stream.Synchronize);
        CudaException next = Assert.Throws<CudaException>(() => at.Queue.Forward(at.Layer, at.Caller.Call));
        foreach (CudaException failure in new[] { waited, next })
        {
            Assert.True(failure.IsContextLost && failure.Step is null, failure.Message);
            Assert.Matches("^A kernel failed earlier and the CUDA context is lost, as .*; restart the process to use this GPU again \\(in checked mode", failure.Message);
        }
        Emulator.Set("reset", 1);
    }

    [Theory]
    [InlineData(1, Step.Quantize)]
    [InlineData(2, Step.GateUp)]
    [InlineData(3, Step.Down)]
    [InlineData(4, Step.Combine)]
    public void CheckedModeNamesTheStepThatFailed(int launch, Step step)
    {
        using var at = new Case(tokens: 3, checkSteps: true);
        Emulator.Set("fault", launch);
        CudaException failure = Assert.Throws<CudaException>(() => at.Queue.Forward(at.Layer, at.Caller.Call));
        Assert.Equal(step, failure.Step);
        Assert.True(failure.IsContextLost, failure.Message);
        Assert.StartsWith($"Step {step} failed on GPU 0 and the CUDA context is lost: unspecified launch failure", failure.Message);
        Emulator.Set("reset", 1);
    }

    [Fact]
    public void CheckedModeDoesNotBlameAStepForWhatFailedBefore()
    {
        using var at = new Case(tokens: 3, checkSteps: true);
        using var before = new Case(tokens: 3);
        using var queue = new CudaQueue(before.Backend, at.Caller.Stream.Raw);
        Emulator.Set("fault", 1);
        queue.Forward(before.Layer, at.Caller.Call);
        CudaException failure = Assert.Throws<CudaException>(() => at.Queue.Forward(at.Layer, at.Caller.Call));
        Assert.True(failure.Step is null && failure.Message.StartsWith("A kernel failed earlier", StringComparison.Ordinal), failure.Message);
        Emulator.Set("reset", 1);
    }

    [Fact]
    public void CheckedModeCapturesAsUsual()
    {
        using var at = new Case(tokens: 3, checkSteps: true);
        at.Queue.Reserve(at.Layer, 3);
        using CudaGraph graph = at.Caller.Stream.Capture(() => at.Queue.Forward(at.Layer, at.Caller.Call));
        at.Caller.Route(s_ids);
        graph.Launch(at.Caller.Stream);
        Same(at.Caller.WithSpans(s_ids), at.Caller.Output<BFloat16>(), "replayed");
    }

    [Fact]
    public void QueuesLeaveNothingBehind()
    {
        using var at = new Case(tokens: 3);
        at.Queue.Forward(at.Layer, at.Caller.Call);
        string before = Emulator.InUse();
        using (var queue = new CudaQueue(at.Backend, at.Caller.Stream.Raw))
        {
            queue.Reserve(at.Layer, 3);
            using (at.Caller.Stream.Capture(() => queue.Forward(at.Layer, at.Caller.Call))) queue.Reserve(at.Layer, 90);
            queue.Reserve(at.Layer, 200);
            queue.Forward(at.Layer, at.Caller.Call);
        }
        Assert.Equal(before, Emulator.InUse());
    }

    /// <summary>The program of docs/gpu-with-your-own-stream.md, with this driver as the system's.</summary>
    [Fact]
    public void TheSampleQueuesAndReplays()
    {
        DirectoryInfo system = Directory.CreateTempSubdirectory("moesharp-driver-");
        try
        {
            File.CreateSymbolicLink(Path.Combine(system.FullName, "libcuda.so.1"), DriverLibrary.Override!);
            var start = new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "OwnStream"))
            {
                WorkingDirectory = Repository.Root,
                RedirectStandardOutput = true,
                Environment = { ["LD_LIBRARY_PATH"] = system.FullName, ["MOESHARP_CUDA_DRIVER"] = null },
            };
            using Process program = Process.Start(start)!;
            string output = program.StandardOutput.ReadToEnd();
            program.WaitForExit();
            Assert.Matches("^queued: output\\[0\\] is -?[0-9.]+, the bits of host spans\nreplayed: output\\[0\\] is -?[0-9.]+, the bits of host spans\n$", output);
        }
        finally
        {
            system.Delete(recursive: true);
        }
    }

    /// <summary>Tools under test can be given a broken machine by an environment variable.</summary>
    [Fact]
    public void AProcessMayStartOnAnotherMachine()
    {
        var start = new ProcessStartInfo(Environment.ProcessPath!, ["--filter-method", "*CudaQueueTests.ChunksGiveTheSameBits"])
        {
            RedirectStandardOutput = true,
            Environment = { ["MOESHARP_EMULATED"] = "driver_version=11080 gpus=0" },
        };
        using Process tests = Process.Start(start)!;
        string output = tests.StandardOutput.ReadToEnd();
        tests.WaitForExit();
        Assert.Contains("The NVIDIA driver offers CUDA 11.8 but 12.0 is needed; install driver 525 or newer.", output);
    }
}
