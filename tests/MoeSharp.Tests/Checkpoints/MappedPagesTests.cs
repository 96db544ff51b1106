namespace MoeSharp.Tests;

public sealed class MappedPagesTests : IDisposable
{
    private const string Block = "model.layers.0.mlp.";
    private readonly TinyCheckpoint _tiny = new(2, 512, 512, WeightFormat.Block128);

    public MappedPagesTests()
    {
        _tiny.AddBf16(Block + "gate.weight", 2, 512);
        _tiny.AddPerExpert(Block + "experts.", ("gate_proj", "up_proj", "down_proj"), "_scale_inv", "F32");
        _tiny.Config = """
            {"model_type":"qwen3_moe","num_experts":2,"num_experts_per_tok":1,"hidden_size":512,"moe_intermediate_size":512,"num_hidden_layers":1,
             "quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]} }
            """;
        _tiny.Write();
    }

    public void Dispose() => _tiny.Dispose();

    /// <summary>Once the cpu backend has its own copy, the checkpoint's pages need not be in memory; who reads them again finds what was there.</summary>
    [Fact]
    public void PagesOfPackedWeightsAreGivenBackAndStayReadable()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Only Linux tells which pages are resident.");
        using Checkpoint model = Checkpoint.Open(_tiny.Folder);
        using LayerParts parts = model.ReadLayer(0);
        using (var reference = new FusedExperts(parts.ExpertsOptions, parts.Experts, ExpertsBackends.Reference))
            Assert.True(Resident() > parts.Experts.Bytes / 2, $"{Resident()} of {parts.Experts.Bytes} bytes are resident though all were just read");
        using var backend = new CpuBackend(2);
        using var packed = new FusedExperts(parts.ExpertsOptions, parts.Experts, backend);
        Assert.True(Resident() < parts.Experts.Bytes / 4, $"{Resident()} of {parts.Experts.Bytes} bytes are resident though a packed copy exists");
        for (int e = 0; e < 2; e++)
            for (int r = 0; r < 512; r++) Assert.True(parts.Experts.Up[e].Row(r).SequenceEqual(_tiny.Up[e].Row(r)), $"expert {e}, row {r}");
    }

    /// <summary>Of the mapping of the checkpoint's file, in bytes.</summary>
    private long Resident()
    {
        string[] lines = File.ReadAllLines("/proc/self/smaps");
        int at = Array.FindIndex(lines, line => line.EndsWith(Path.Combine(_tiny.Folder, "model.safetensors"), StringComparison.Ordinal));
        string size = lines.Skip(at + 1).First(line => line.StartsWith("Rss:", StringComparison.Ordinal));
        return 1024 * long.Parse(size.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1]);
    }
}
