using System.Text.Json;

namespace MoeSharp.Tests;

/// <summary>
/// What the MoE blocks of a tiny checkpoint are expected to give, read without the library's own reader. Samples lie in this repository and, more of
/// them, in an optional folder beside it.
/// </summary>
internal sealed class SampleCheckpoint
{
    private readonly JsonElement _config;
    private readonly Tensors _expected;

    public SampleCheckpoint(string folder)
    {
        Folder = folder;
        _config = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "config.json"))).RootElement;
        _expected = new Tensors(Path.Combine(folder, "expected.safetensors"));
    }

    public static IEnumerable<string> Folders()
    {
        var folders = Directory.GetDirectories(Repository.PathOf("tests/MoeSharp.Tests/Data/checkpoints")).ToList();
        folders.Add(Repository.PathOf("samples/tiny-qwen3-moe-fp8"));
        if (SharedData.Find("checkpoints") is { } shared) folders.AddRange(Directory.GetDirectories(shared));
        return folders.Order(StringComparer.Ordinal);
    }

    public string Folder { get; }

    public string Family => _config.GetProperty("model_type").GetString()!;

    /// <summary>Decoder layers whose block has expectations.</summary>
    public IEnumerable<int> Layers =>
        Enumerable.Range(0, _config.GetProperty("num_hidden_layers").GetInt32()).Where(l => _expected.Has($"model.layers.{l}.mlp/T1/output"));

    /// <summary>What the block of a layer is expected to do with T tokens; T is 1, 5 or 33.</summary>
    public (BFloat16[] Hidden, int[] Ids, float[] Weights, float[] Output) Expected(int layer, int tokens)
    {
        string at = $"model.layers.{layer}.mlp/T{tokens}/";
        return (_expected.Get<BFloat16>(at + "hidden_states"), _expected.Get<int>(at + "experts_in1"), _expected.Get<float>(at + "experts_in2"),
            _expected.Get<float>(at + "output"));
    }
}
