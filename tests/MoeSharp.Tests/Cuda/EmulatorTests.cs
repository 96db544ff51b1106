using System.Diagnostics;

namespace MoeSharp.Tests;

public class EmulatorTests
{
    /// <summary>A process has one driver, and faults are for its lifetime; so the classes whose names begin with Emulated run in one of their own.</summary>
    [Fact]
    public void KernelsAndHostCodePassOnTheEmulatedDriver()
    {
        Assert.SkipWhen(Gpu.IsEmulated, "This is that process.");
        var start = new ProcessStartInfo(Environment.ProcessPath!, ["--filter-class", "MoeSharp.Tests.Emulated*"])
        {
            RedirectStandardOutput = true,
            Environment = { ["MOESHARP_CUDA_DRIVER"] = Emulator.Build() },
        };
        using Process tests = Process.Start(start)!;
        string output = tests.StandardOutput.ReadToEnd();
        tests.WaitForExit();
        Assert.True(tests.ExitCode == 0 && output.Contains("skipped: 0", StringComparison.Ordinal), output);
    }
}

/// <summary>Real kernel sources and real host code on a machine that can be told to be short of memory, too old or broken.</summary>
[CollectionDefinition(nameof(Emulator), DisableParallelization = true)]
[Collection(nameof(Emulator))]
public class EmulatedMachineTests
{
    public EmulatedMachineTests() => Emulator.Start();

    [Fact]
    public void AGoldenLayerEqualsTheRecordingAtEveryStage() => new CudaGoldenTests().EveryStageEqualsTheRecording("g1_silu", 1, "12.4");

    [Fact]
    public void OddSizesAgreeWithTheReference() => new CudaBackendTests().LayersAgreeWithTheReference(33, 192, 96);

    /// <summary>90 rows for one expert: rows on the M side, exchanged maxima, multicast.</summary>
    [Fact]
    public void ManyRowsAgreeWithTheReference()
    {
        using CudaBackend backend = Gpu.Open();
        Assert.Equal("", Difference(backend, 90));
    }

    /// <summary>600 rows are many for two multiprocessors and few for eight, so another kernel quantizes and places them.</summary>
    [Fact]
    public void LongRunsGiveTheBitsOfShortOnes()
    {
        const int tokens = 300, hidden = 256;
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, hidden, 128, 1);
        var plan = new DevicePlan(ExpertsShape.From(new() { TopK = 2 }, weights), tokens);
        Assert.Equal((true, false), (plan.HasLongRuns(2), plan.HasLongRuns(8)));
        CudaQueueTests.Same(Output(8), Output(2), "long runs");

        BFloat16[] Output(int multiprocessors)
        {
            Emulator.Set("multiprocessors", multiprocessors);
            using CudaBackend backend = Gpu.Open();
            using var experts = new FusedExperts(new() { TopK = 2 }, weights, backend);
            var output = new BFloat16[tokens * hidden];
            experts.Forward(RandomLayer.Hidden(tokens, hidden, 2), RandomLayer.Ids(tokens, 2, 4, 3, dropped: 0.1), RandomLayer.TopkWeights(tokens, 2, 4), output);
            Assert.Equal("", Difference(backend, tokens));
            return output;
        }
    }

    [Fact]
    public void DriversAndGpusThatDoNotSufficeGetASentence()
    {
        using CudaBackend backend = Gpu.Open();
        foreach ((string member, long value, long usual, string words) in new[]
        {
            ("driver_version", 11080L, 12040L, "The NVIDIA driver offers CUDA 11.8 but 12.0 is needed; install driver 525 or newer."),
            ("gpus", 0, 1, "There is an NVIDIA driver on this machine but no GPU that it can use."),
        })
        {
            Emulator.Set(member, value);
            Assert.Equal(words, DriverLibrary.Ask().Reason);
            Emulator.Set(member, usual);
        }
        Emulator.Set("capability", 89);
        using (var older = new CudaBackend())
            Assert.Equal("GPU 0 (Emulated Hopper 0) has compute capability 8.9; the kernels need 9.0 (Hopper).", older.SupportsDevice().Reason);
        Emulator.Set("capability", 90);
        using var absent = new CudaBackend(3);
        Assert.Equal("GPU 3 was asked for but the driver shows 1; count from 0.", absent.SupportsDevice().Reason);
    }

    [Fact]
    public void MemoryThatDoesNotSufficeIsNamedAndTheLibraryKeepsWorking()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, 256, 128, 1);
        Emulator.Set("memory_bytes", 200_000);
        CudaException atLoad = Assert.Throws<CudaException>(() => new FusedExperts(new() { TopK = 1 }, weights, backend));
        Assert.Matches("^393,408 bytes were asked for on GPU 0 for the weights of 4 experts but .* are free", atLoad.Message);
        Emulator.Set("memory_bytes", 1_000_000);
        using var experts = new FusedExperts(new() { TopK = 1 }, weights, backend);
        var output = new BFloat16[5000 * 256];
        CudaException atCall = Assert.Throws<CudaException>(() => experts.Forward(RandomLayer.Hidden(5000, 256, 1), new int[5000], new float[5000], output));
        Assert.Contains("for the workspace of 5000 tokens", atCall.Message);
        experts.Forward(RandomLayer.Hidden(2, 256, 1), new int[2], new float[2], output.AsSpan(0, 512));
        Emulator.Set("memory_bytes", 8L << 30);
        Assert.Equal("", Difference(backend, 3));
    }

    [Fact]
    public void AFaultSaysThatTheContextIsLost()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, 256, 128, 1);
        using var experts = new FusedExperts(new() { TopK = 1 }, weights, backend);
        Emulator.Set("fault", 1); // its only launch
        CudaException fault = Assert.Throws<CudaException>(() => experts.Forward(RandomLayer.Hidden(2, 256, 1), new int[2], new float[2], new BFloat16[512]));
        Assert.True(fault.IsContextLost, fault.Message);
        Assert.Contains("restart the process", fault.Message);
        Emulator.Set("reset", 1);
    }

    [Fact]
    public void TwoGpusPassTheTestsOfTwoGpus()
    {
        Emulator.Set("gpus", 2);
        var tests = new MultiGpuTests();
        tests.TwoLayersOnTwoGpusEqualOneGpu();
        tests.RanksOfExpertsOnTwoGpusAddUpToTheLayer();
        tests.RanksOfTheIntermediateOnTwoGpusAddUpToTheLayer();
        tests.WhatWasCurrentStaysCurrent();
        ToolRun run = ToolRun.Of("run", Repository.PathOf("samples/tiny-qwen3-moe-fp8"), "--layer", "0", "--tokens", "2", "--backend", "cuda:1", "--verify");
        Assert.True(run.ExitCode == 0 && run.Output.Contains("Emulated Hopper 1", StringComparison.Ordinal), run.Output + run.Error);
        Assert.Equal((0L, 0L), (Emulator.Get("bytes", 0), Emulator.Get("bytes", 1)));
        Assert.Equal((0L, 0L), (Emulator.Get("retained", 0), Emulator.Get("retained", 1)));
    }

    /// <summary>One GPU's full memory or lost context is no matter of the other.</summary>
    [Fact]
    public void TroubleOfOneGpuStaysThere()
    {
        Emulator.Set("gpus", 2);
        (CudaBackend first, CudaBackend second) = Gpu.OpenTwo();
        using (first)
        using (second)
        {
            using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 4, 256, 128, 1);
            using var onFirst = new FusedExperts(new() { TopK = 1 }, weights, first);
            using var onSecond = new FusedExperts(new() { TopK = 1 }, weights, second);
            Emulator.Set("fault", 1);
            Assert.True(Assert.Throws<CudaException>(() => onSecond.Forward(RandomLayer.Hidden(2, 256, 1), new int[2], new float[2], new BFloat16[512])).IsContextLost);
            onFirst.Forward(RandomLayer.Hidden(2, 256, 1), new int[2], new float[2], new BFloat16[512]);
            Assert.Equal("", Difference(first, 3));
            Emulator.Set("reset", 1);
        }
    }

    [Fact]
    public void TheToolVerifiesMxFp8AndBf16Activations()
    {
        foreach ((string checkpoint, string activations) in new[] { ("qwen3-moe-mxfp8", "fp8"), ("qwen3-moe-mxfp8", "bf16"), ("deepseek-v3.1-ue8m0", "bf16") })
        {
            ToolRun run = ToolRun.Of("verify", Repository.PathOf("tests/MoeSharp.Tests/Data/checkpoints/" + checkpoint), "--backend", "cuda", "--activations", activations);
            Assert.True(run.ExitCode == 0 && run.Output.Contains("Agrees with the reference", StringComparison.Ordinal), $"{checkpoint}, {activations}: {run.Output}");
        }
    }

    /// <summary>FP8 weights and activations, the one pair that takes no biases.</summary>
    [Fact]
    public void BiasesThatAreNotAddedAreRefused()
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 2, 128, 128, 1, biases: true);
        UnsupportedException refused = Assert.Throws<UnsupportedException>(() => new FusedExperts(new() { TopK = 1 }, weights, backend));
        Assert.Contains("take BF16 activations", refused.Message);
        using var taken = new FusedExperts(new() { TopK = 1, Activations = ActivationFormat.Bf16 }, weights, backend);
    }

    [Fact]
    public void AWideLayerAgreesWithTheReference() => new WideTests().LayersAgreeWithTheReference(WeightFormat.MxFp8, ActivationFormat.Fp8, 33, 192, 96);

    [Fact]
    public void TheToolVerifiesACheckpointOnTheGpu()
    {
        string model = Repository.PathOf("tests/MoeSharp.Tests/Data/checkpoints/deepseek-v3.1-ue8m0");
        ToolRun run = ToolRun.Of("verify", model, "--backend", "cuda");
        Assert.Equal(0, run.ExitCode);
        Assert.Contains("cuda against reference", run.Output);
        Assert.Contains("Agrees with the reference", run.Output);
    }

    [Fact]
    public void StraddlingScaleBlocksAgreeWithTheReference() => new CudaSliceTests().ScaleBlocksThatStraddleGateAndUpAgreeWithTheReference(3, 64, 40);

    [Fact]
    public void TheToolComparesSidesOnTheGpu()
    {
        using var tests = new CompareTests();
        tests.ASideOnAGpuIsComparedOrRefusedInASentence();
    }

    [Fact]
    public void TheToolExplainsWhatWeightsTakeOfTheGpu()
    {
        ToolRun padded = ToolRun.Of("explain", "--shape", "4,2,192,96", "--tokens", "2", "--backend", "cuda", "--json");
        System.Text.Json.JsonElement weights = padded.Json().GetProperty("gpu_weights");
        Assert.Equal(4 * 3 * (256 * 128 - 192 * 96), weights.GetProperty("padding_bytes").GetInt64());
        Assert.Equal(4 * 3 * 256 * 128 + 4 * (2 + 1) * 16, weights.GetProperty("bytes").GetInt64());
        Assert.Contains("zeros that fill blocks of 128", ToolRun.Of("explain", "--shape", "4,2,192,96", "--tokens", "2", "--backend", "cuda").Output);
    }

    /// <summary>Empty, or how a layer differs from the reference backend.</summary>
    internal static string Difference(CudaBackend backend, int tokens)
    {
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, 2, 128, 256, 1);
        using var ours = new FusedExperts(new() { TopK = 2 }, weights, backend);
        using var reference = new FusedExperts(new() { TopK = 2 }, weights, ExpertsBackends.Reference);
        BFloat16[] x = RandomLayer.Hidden(tokens, 128, 2), a = new BFloat16[x.Length], b = new BFloat16[x.Length];
        int[] ids = [.. Enumerable.Range(0, 2 * tokens).Select(i => i % 2)];
        float[] w = RandomLayer.TopkWeights(tokens, 2, 4);
        ours.Forward(x, ids, w, a);
        reference.Forward(x, ids, w, b);
        double difference = Gpu.Difference(a, b);
        return difference <= 5e-4 ? "" : $"T={tokens}: calc_diff {difference:E2}";
    }
}
