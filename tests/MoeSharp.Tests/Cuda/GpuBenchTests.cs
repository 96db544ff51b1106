using System.Text.Json;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

[Collection(nameof(Emulator))]
public class GpuBenchTests
{
    [Theory, Trait("Category", "Cuda")]
    [InlineData("block128", "experts_few")]
    [InlineData("mxfp8", "experts_few_wide")]
    public void EveryPointSaysTimesRatesStepsAndLaunches(string format, string oneLaunch)
    {
        Gpu.Open().Dispose();
        JsonElement json = ToolRun.Of("bench", "--shape", "8,2,256,128", "--format", format, "--tokens", "1,70", "--backend", "cuda", "--routing", "zipf", "--json").Json();
        JsonElement[] rows = [.. json.GetProperty("results").EnumerateArray()];
        Assert.Equal([1, 70], rows.Select(row => row.GetProperty("tokens").GetInt32()));
        foreach (JsonElement row in rows)
        {
            double cold = row.GetProperty("cold_us").GetDouble();
            Assert.True(cold > 0 && row.GetProperty("hot_us").GetDouble() > 0, row.ToString());
            Assert.Equal(row.GetProperty("bytes").GetInt64() / cold / 1e3, row.GetProperty("gb_per_s").GetDouble(), 1e-6);
            Assert.Equal(row.GetProperty("tokens").GetInt32() * 2, row.GetProperty("slots").GetInt32());
            Assert.True(row.GetProperty("host_us").GetDouble() > 0 && row.GetProperty("driver_us").GetDouble() > 0, row.ToString());
            Assert.Equal(row.GetProperty("tokens").GetInt32() == 1 ? 1 : 3, row.GetProperty("launches").GetInt32());
            string[] launches = row.GetProperty("launches").GetInt32() == 1 ? [oneLaunch] : ["quantize_permute", "gateup", "down", "combine"];
            Assert.Equal(launches, row.GetProperty("steps_us").EnumerateObject().Select(step => step.Name));
            Assert.All(row.GetProperty("steps_us").EnumerateObject(), step => Assert.True(step.Value.GetDouble() > 0, row.ToString()));
        }
        JsonElement ceilings = json.GetProperty("ceilings");
        Assert.All(ceilings.EnumerateObject(), ceiling => Assert.True(ceiling.Value.GetDouble() > 0, ceilings.ToString()));
        Assert.NotEqual("", json.GetProperty("gpu").GetProperty("name").GetString());
    }

    /// <summary>A layer of a checkpoint, as a picture too.</summary>
    [Fact, Trait("Category", "Cuda")]
    public void ACheckpointIsTimedAndDrawn()
    {
        Gpu.Open().Dispose();
        string file = Path.Combine(Path.GetTempPath(), $"moesharp-{Guid.NewGuid():N}.svg");
        try
        {
            ToolRun run = ToolRun.Of("bench", Repository.PathOf("samples/tiny-qwen3-moe-fp8"), "--layer", "0", "--tokens", "1,4", "--backend", "cuda", "--plot", file);
            if (run.Error.Contains("no fonts", StringComparison.Ordinal)) Assert.Skip("This machine cannot draw.");
            Assert.True(run.ExitCode == 0, run.Error);
            Assert.Contains("Ceilings of this GPU", run.Output);
            Assert.Contains("experts_few", run.Output);
            Assert.Contains("<svg", File.ReadAllText(file));
        }
        finally
        {
            File.Delete(file);
        }
    }

    /// <summary>Random weights are numbers, not NaN, and spread: a layer of them keeps the size of its input.</summary>
    [Theory, Trait("Category", "Cuda")]
    [InlineData(WeightFormat.Block128, ActivationFormat.Fp8)]
    [InlineData(WeightFormat.Block128, ActivationFormat.Bf16)]
    [InlineData(WeightFormat.MxFp8, ActivationFormat.Fp8)]
    [InlineData(WeightFormat.Bf16, ActivationFormat.Bf16)]
    public void RandomLayersKeepTheSizeOfTheirInput(WeightFormat format, ActivationFormat activations)
    {
        using CudaBackend backend = Gpu.Open();
        var kernels = new BenchKernels(backend.Kernels());
        using var tables = new RandomTables(kernels);
        var shape = new BenchShape("test", 4, 2, 256, 384) { LocalExperts = 3 };
        using GpuLayer layer = GpuLayer.Random(shape, format, activations, backend, tables);
        using var buffers = new GpuBuffers(kernels.Context, layer, 8, tables);
        layer.Call.Prepare(8);
        var ids = new int[16];
        var weights = new float[16];
        SyntheticRouting.Fill(RoutingKind.Uniform, 1, 4, 2, ids, weights);
        buffers.Route(ids, weights, layer.Call.Stream);
        buffers.Enqueue(layer.Call);
        BFloat16[] output = buffers.Output(8 * 256, layer.Call.Stream);
        Assert.True(output.All(value => float.IsFinite(value.ToSingle())), $"{format} with {activations} activations: a value is not finite");
        double length = Math.Sqrt(output.Average(value => (double)value.ToSingle() * value.ToSingle()));
        Assert.InRange(length, 0.01, 10);
    }

    /// <summary>The same on every GPU: twelve bits of a hash of the place choose each byte, here from a table whose entries are their own numbers.</summary>
    [Fact, Trait("Category", "Cuda")]
    public void RandomBytesAreAFunctionOfSeedAndPlace()
    {
        using CudaBackend backend = Gpu.Open();
        var kernels = new BenchKernels(backend.Kernels());
        using var tables = new RandomTables(kernels);
        using var stream = new CudaStream(kernels.Context);
        using DeviceBuffer table = tables.Upload([.. Enumerable.Range(0, BenchKernels.TableLength).Select(i => (uint)i % 128)]);
        using DeviceBuffer tail = tables.Upload([.. Enumerable.Repeat(200u, BenchKernels.TableLength)]);
        using var bytes = new DeviceBuffer(kernels.Context, 3 * 96, "bytes");
        kernels.Randomize(new(bytes.Address, bytes.Bytes), table, tail, valueBytes: 1, periodBytes: 96, bodyBytes: 64, seed: 5, stream);
        var found = new byte[bytes.Bytes];
        bytes.Download<byte>(found, stream);
        for (int i = 0; i < found.Length; i++)
        {
            byte want = i % 96 >= 64 ? (byte)200 : (byte)((SplitMix64.Bits(5, i / 4) >> 12 * (i % 4)) % 128);
            Assert.True(found[i] == want, $"byte {i} is {found[i]}, not {want}");
        }
    }

    [Fact]
    public void ShapesThatDoNotGoTogetherGetASentence()
    {
        Assert.Contains("--plot draws one shape", ToolRun.Of("bench", "--shape", "peers", "--backend", "cuda", "--plot", Path.Combine(Path.GetTempPath(), "x.svg")).Sentence());
    }

    [Fact]
    public void AllPeersShapesAreForGpus() =>
        Assert.Contains("--shape peers is for GPUs", ToolRun.Of("bench", "--shape", "peers", "--backend", "cpu").Sentence());

    [Fact]
    public void StructsHaveTheSizesThatTheKernelsAssert()
    {
        string asserted = File.ReadAllText(Repository.PathOf("kernels/include/bench_arguments.cuh"));
        foreach ((string name, int size) in new (string, int)[]
        {
            ("RandomArguments", System.Runtime.CompilerServices.Unsafe.SizeOf<RandomArguments>()),
            ("MemoryArguments", System.Runtime.CompilerServices.Unsafe.SizeOf<MemoryArguments>()),
            ("ProductArguments", System.Runtime.CompilerServices.Unsafe.SizeOf<ProductArguments>()),
        })
            Assert.True(asserted.Contains($"sizeof({name}) == {size}", StringComparison.Ordinal), $"{name} has {size} bytes here; the kernels assert another size.");
    }
}
