namespace MoeSharp.Tests;

public sealed class PackedCacheTests : IDisposable
{
    private const int Tokens = 9;
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("moesharp-cache-");

    private string Cache => Path.Combine(_folder.FullName, "cache");
    private string Model => Path.Combine(_folder.FullName, "model");

    public PackedCacheTests()
    {
        Directory.CreateDirectory(Model);
        foreach (string file in Directory.GetFiles(Repository.PathOf("samples/tiny-qwen3-moe-fp8"))) File.Copy(file, Path.Combine(Model, Path.GetFileName(file)));
    }

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public void AStoredLayerIsMappedAndComputesTheSameBits()
    {
        byte[] expected = Output(cache: null);
        Assert.False(Directory.Exists(Cache));
        Assert.Equal(expected, Output(Cache));
        FileInfo stored = Stored();
        long allocated = long.MaxValue, packed = 0;
        for (int attempt = 0; attempt < 5 && allocated >= packed / 2; attempt++) // other tests allocate meanwhile
        {
            long live = NativeBuffer.LiveBytes;
            using var backend = new CpuBackend(2, packedCache: Cache);
            using MoeLayer layer = Load(backend);
            packed = ((CpuExperts)layer.Experts.Prepared).Bytes;
            allocated = NativeBuffer.LiveBytes - live;
        }
        Assert.True(allocated < packed / 2, $"{allocated} bytes were allocated, though {packed} bytes of weights are stored");
        Assert.Equal(expected, Output(Cache));
        Assert.Equal((stored.Name, stored.LastWriteTimeUtc), (Stored().Name, Stored().LastWriteTimeUtc));
    }

    [Fact]
    public void EachLayerOrderAndPartHasItsOwnFile()
    {
        using (var backend = new CpuBackend(2, packedCache: Cache))
        {
            Load(backend, layer: 0).Dispose();
            Load(backend, layer: 1).Dispose();
        }
        using (var backend = new CpuBackend(2, "managed-128", Cache)) Load(backend).Dispose();
        bool sameOrder = GemmKernels.All.First(k => k.IsSupported).Order == GemmKernels.All.First(k => k.Name == "managed-128").Order;
        int files = sameOrder ? 2 : 3;
        Assert.Equal(files, Directory.GetFiles(Cache).Length);
        using (var backend = new CpuBackend(2, packedCache: Cache))
        using (Checkpoint model = Checkpoint.Open(Model))
            MoeLayer.Load(model, 0, new() { Backend = backend, Selection = new() { Experts = (0, 4) } }).Dispose();
        Assert.Equal(files + 1, Directory.GetFiles(Cache).Length);
    }

    [Theory]
    [InlineData(0)] // magic
    [InlineData(8)] // version
    [InlineData(12)] // whether there are NaNs
    [InlineData(20)] // key
    [InlineData(48)] // sizes
    [InlineData(4096)] // first weight
    [InlineData(20_000)] // some weight
    [InlineData(-1)] // last checksum
    public void ADamagedFileIsReplaced(int at)
    {
        byte[] expected = Output(Cache);
        string path = Stored().FullName;
        byte[] intact = File.ReadAllBytes(path);
        for (int bit = 0; bit < 8; bit += 7)
        {
            byte[] damaged = [.. intact];
            damaged[at < 0 ? damaged.Length + at : at] ^= (byte)(1 << bit);
            File.WriteAllBytes(path, damaged);
            Assert.Equal(expected, Output(Cache));
            Assert.Equal(intact, File.ReadAllBytes(Stored().FullName));
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(100)]
    [InlineData(5000)]
    [InlineData(-1)]
    public void ACutFileIsReplaced(int length)
    {
        byte[] expected = Output(Cache);
        string path = Stored().FullName;
        byte[] intact = File.ReadAllBytes(path);
        File.WriteAllBytes(path, intact[..(length < 0 ? intact.Length + length : length)]);
        Assert.Equal(expected, Output(Cache));
        Assert.Equal(intact, File.ReadAllBytes(path));
    }

    [Fact]
    public void AChangedCheckpointIsAnotherOne()
    {
        byte[] before = Output(Cache);
        ChangeWeight(code => (byte)(code ^ 0x40));
        byte[] after = Output(cache: null);
        Assert.Equal(after, Output(Cache));
        Assert.NotEqual(before, after);
        Assert.Equal(2, Directory.GetFiles(Cache).Length);
    }

    [Fact]
    public void NaNWeightsAreStillRefused()
    {
        ChangeWeight(_ => 0x7F);
        Output(Cache, allowNaN: true);
        Assert.Equal(Output(cache: null, allowNaN: true), Output(Cache, allowNaN: true));
        Assert.Contains("experts.3.up_proj", Assert.Throws<CheckpointException>(() => Output(Cache)).Message);
    }

    [Fact]
    public void WeightsFromMemoryAreNotStored()
    {
        using var backend = new CpuBackend(1, packedCache: Cache);
        using ExpertWeights weights = new RandomExperts(2, 1, 128, 128, WeightFormat.Block128).Weights();
        new FusedExperts(new() { TopK = 1 }, weights, backend).Dispose();
        Assert.False(Directory.Exists(Cache));
    }

    [Fact]
    public void AFolderThatCannotBeChangesNothing()
    {
        File.WriteAllText(Cache, "a file");
        Assert.Equal(Output(cache: null), Output(Cache));
        Assert.Equal("a file", File.ReadAllText(Cache));
    }

    private FileInfo Stored() => new(Assert.Single(Directory.GetFiles(Cache)));

    /// <summary>A code of expert 3's up projection; the file gets a new time, as every file that somebody writes.</summary>
    private void ChangeWeight(Func<byte, byte> change)
    {
        foreach (string path in Directory.GetFiles(Model, "model-*.safetensors"))
        {
            long at;
            using (SafetensorsFile file = SafetensorsFile.Open(path))
            {
                if (!file.Tensors.TryGetValue("model.layers.0.mlp.experts.3.up_proj.weight", out TensorEntry? tensor)) continue;
                at = tensor.Offset + 77;
            }
            DateTime time = File.GetLastWriteTimeUtc(path);
            byte[] bytes = File.ReadAllBytes(path);
            bytes[at] = change(bytes[at]);
            File.WriteAllBytes(path, bytes);
            File.SetLastWriteTimeUtc(path, time.AddSeconds(1));
        }
    }

    private MoeLayer Load(CpuBackend backend, int layer = 0, bool allowNaN = false)
    {
        using Checkpoint model = Checkpoint.Open(Model);
        return MoeLayer.Load(model, layer, new() { Backend = backend, AllowNaNWeights = allowNaN });
    }

    private byte[] Output(string? cache, bool allowNaN = false)
    {
        using var backend = new CpuBackend(2, packedCache: cache);
        using MoeLayer layer = Load(backend, allowNaN: allowNaN);
        var hidden = new BFloat16[Tokens * layer.HiddenSize];
        for (int i = 0; i < hidden.Length; i++) hidden[i] = BFloat16.FromSingle(MathF.Sin(i));
        var output = new BFloat16[hidden.Length];
        layer.Forward(hidden, output);
        return System.Runtime.InteropServices.MemoryMarshal.AsBytes(output.AsSpan()).ToArray();
    }
}
