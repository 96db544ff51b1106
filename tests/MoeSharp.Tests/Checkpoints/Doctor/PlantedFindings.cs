using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>A copy of a checkpoint in which something is planted that the doctor must find where it was planted, and nothing else.</summary>
public abstract class PlantedFindings : IDisposable
{
    protected const string Shard = "model.safetensors", Gate5 = "model.layers.1.mlp.experts.5.gate_proj.weight", Scale5 = Gate5 + "_scale_inv";
    protected const string Router = "model.layers.1.mlp.gate.weight";
    private static readonly string Sample = Repository.PathOf("samples/tiny-qwen3-moe-fp8");
    private protected TemporaryFolder Folder { get; } = new();
    protected Dictionary<string, (string Type, long[] Shape, byte[] Data)> Stored { get; } = [];
    protected JsonObject Config { get; }

    /// <summary>Starts from the sample's tensors and config, as one file without an index.</summary>
    protected PlantedFindings()
    {
        Load(Sample);
        Config = JsonNode.Parse(File.ReadAllText(Path.Combine(Sample, "config.json")))!.AsObject();
    }

    public void Dispose()
    {
        Folder.Dispose();
        GC.SuppressFinalize(this);
    }

    protected JsonObject Quantization() => Config["quantization_config"]!.AsObject();

    protected static void ForBlock(byte[] data, int column, Func<int, byte> code)
    {
        for (int i = 0; i < 128 * 128; i++) data[i / 128 * 256 + column + i % 128] = code(i);
    }

    protected void MakeScalesPowersOfTwo()
    {
        foreach (string name in Stored.Keys.Where(n => n.EndsWith("_scale_inv", StringComparison.Ordinal) && n != Scale5).ToArray())
        {
            IEnumerable<byte[]> scales = Enumerable.Repeat(BitConverter.GetBytes(0.25f), Stored[name].Data.Length / 4);
            Stored[name] = Stored[name] with { Data = [.. scales.SelectMany(b => b)] };
        }
    }

    protected byte[] Take(string name)
    {
        byte[] data = Stored[name].Data;
        Stored.Remove(name);
        return data;
    }

    protected void Load(string folder)
    {
        foreach (string path in Directory.GetFiles(folder, "model*.safetensors"))
        {
            using var file = SafetensorsFile.Open(path);
            foreach (TensorEntry t in file.Tensors.Values) Stored.Add(t.Name, (t.Type, t.Shape, file.Data(t.Name).ToArray()));
        }
    }

    protected void Write(string file, Func<string, bool> which) =>
        SafetensorsWriter.Write(
            Folder[file], [.. Stored.Where(t => which(t.Key)).Select(t => TensorToWrite.Of(t.Key, t.Value.Type, t.Value.Shape, t.Value.Data))]);

    protected void Save()
    {
        File.WriteAllText(Folder["config.json"], Config.ToJsonString());
        Write(Shard, _ => true);
    }

    protected static bool IsOfFirstShard(string name) => name.Contains(".layers.1.", StringComparison.Ordinal);

    /// <summary>The same tensors in two shards with an index, and nothing else.</summary>
    protected void Split()
    {
        foreach (string file in Directory.GetFiles(Folder.Root)) File.Delete(file);
        File.WriteAllText(Folder["config.json"], Config.ToJsonString());
        Write("model-a.safetensors", IsOfFirstShard);
        Write("model-b.safetensors", name => !IsOfFirstShard(name));
        var map = new JsonObject();
        foreach (string name in Stored.Keys) map[name] = IsOfFirstShard(name) ? "model-a.safetensors" : "model-b.safetensors";
        File.WriteAllText(Folder["model.safetensors.index.json"], new JsonObject { ["weight_map"] = map }.ToJsonString());
    }

    private protected IReadOnlyList<Finding> Examine()
    {
        Save();
        return Run();
    }

    private protected IReadOnlyList<Finding> Run()
    {
        using var doctor = new Doctor(Folder.Root);
        doctor.Scan((_, _) => { }, TestContext.Current.CancellationToken);
        return doctor.Findings;
    }

    protected void ExpectOne(string code, string? file, string? tensor, int? layer, int? expert, (int, int)? block = null) =>
        AssertOne(code, file, tensor, layer, expert, block, Examine());

    private protected static void AssertOne(string code, string? file, string? tensor, int? layer, int? expert, (int, int)? block,
        IReadOnlyList<Finding> findings)
    {
        Assert.True(findings.Count == 1, $"{code} of {tensor} was planted and this was found: " +
            $"{string.Join("; ", findings.Select(f => $"{f.Code.Name}: {f.What}"))}");
        Finding found = findings[0];
        Assert.Equal((code, new Place(file, tensor, layer, expert, block)), (found.Code.Name, found.At));
        Assert.EndsWith($"{found.Code.Why} {found.Code.Remedy}", found.Message);
    }
}
