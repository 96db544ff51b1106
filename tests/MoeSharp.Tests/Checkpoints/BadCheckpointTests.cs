using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>Folders that are wrong in one way each: one sentence that names what is wrong, never anything but a
/// <see cref="CheckpointException"/>.</summary>
public sealed class BadCheckpointTests : IDisposable
{
    private static readonly (string, string, string) Names = ("gate_proj", "up_proj", "down_proj");
    private readonly TinyCheckpoint _tiny = new(4, 256, 128, WeightFormat.Block128);
    private readonly JsonObject _config = JsonNode.Parse("""
        {"model_type":"qwen3_moe","num_experts":4,"num_experts_per_tok":2,"hidden_size":256,"moe_intermediate_size":128,"num_hidden_layers":1,"norm_topk_prob":true,
         "hidden_act":"silu","quantization_config":{"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic","weight_block_size":[128,128]}}
        """)!.AsObject();

    public BadCheckpointTests()
    {
        _tiny.AddPerExpert("model.layers.0.mlp.experts.", Names, "_scale_inv", "F32");
        _tiny.AddBf16("model.layers.0.mlp.gate.weight", 4, 256);
    }

    public void Dispose() => _tiny.Dispose();

    private string Write(params string[] without)
    {
        _tiny.Config = _config.ToJsonString();
        return _tiny.Write(without);
    }

    private static void Reads(string folder) => Refusal.Reads(folder);

    private static void Refuses(string folder, params string[] words) => Refusal.Of(folder, words);

    /// <summary>Splits the file by an index; what is in no list stays in the single shard a.safetensors.</summary>
    private string WriteIndexed(Action<JsonObject>? change = null)
    {
        string folder = Write(), shard = Path.Combine(folder, "a.safetensors");
        File.Move(Path.Combine(folder, "model.safetensors"), shard, overwrite: true);
        var map = new JsonObject();
        foreach (string name in _tiny.Names) map[name] = "a.safetensors";
        long total = new FileInfo(shard).Length;
        var index = new JsonObject { ["metadata"] = new JsonObject { ["total_size"] = total }, ["weight_map"] = map };
        change?.Invoke(index);
        File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), index.ToJsonString());
        return folder;
    }

    [Fact]
    public void TheUnchangedFolderReads()
    {
        Reads(Write());
        Reads(WriteIndexed());
    }

    [Fact]
    public void RefusesFp8WithoutQuantizationConfig()
    {
        _config.Remove("quantization_config");
        Refuses(Write(), "F8_E4M3", "quantization_config");
    }

    [Fact]
    public void RefusesScalesThatBreakThePromiseOfPowersOfTwo()
    {
        _config["quantization_config"]!["scale_fmt"] = "ue8m0";
        Reads(Write());
        byte[] scale = BitConverter.GetBytes(0.3f);
        const string name = "model.layers.0.mlp.experts.1.up_proj.weight_scale_inv";
        string folder = Write(name);
        ReplaceTensor(folder, name, "F32", [1, 2], [.. scale, .. scale]);
        Refuses(folder, name, "0.3", "ue8m0");
    }

    [Theory]
    [InlineData("F32", 1, 1, "[1, 1]")]
    [InlineData("I32", 1, 2, "I32")]
    public void RefusesScalesOfAnotherShapeOrType(string type, int rows, int columns, string word)
    {
        const string name = "model.layers.0.mlp.experts.2.down_proj.weight_scale_inv";
        string folder = Write(name);
        ReplaceTensor(folder, name, type, type == "F32" ? [rows, columns] : [2, 1], new byte[4 * 2 * (type == "F32" ? rows * columns : 2) / 2]);
        Refuses(folder, name, word);
    }

    /// <summary>Writes the folder again with a tensor in place of one that was left out.</summary>
    private void ReplaceTensor(string folder, string name, string type, long[] shape, byte[] data)
    {
        var tensors = new List<TensorToWrite> { TensorToWrite.Of(name, type, shape, data) };
        using (SafetensorsFile old = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")))
            tensors.AddRange(
                old.Tensors.Values.Where(t => t.Name != name).Select(t => TensorToWrite.Of(t.Name, t.Type, t.Shape, old.Data(t.Name).ToArray())));
        SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors);
    }

    [Theory]
    [InlineData("../a.safetensors")]
    [InlineData("/etc/passwd")]
    [InlineData("sub/a.safetensors")]
    [InlineData("C:a.safetensors")]
    [InlineData("..\\a.safetensors")]
    [InlineData("..")]
    [InlineData("")]
    [InlineData("a.safetensors\u0000")]
    public void RefusesAnIndexThatLeadsOutOfTheFolder(string file) =>
        Refuses(WriteIndexed(i => i["weight_map"]!["model.layers.0.mlp.gate.weight"] = file), "not a plain file name",
            "model.layers.0.mlp.gate.weight");

    [Fact]
    public void TheIndexIsAuthoritative()
    {
        const string name = "model.layers.0.mlp.experts.3.up_proj.weight";
        Refuses(WriteIndexed(i => i["weight_map"]!.AsObject().Remove(name)), name); // the shard holds it all the same
    }

    [Fact]
    public void RefusesATensorThatItsShardDoesNotHold()
    {
        string folder = WriteIndexed(i => i["weight_map"]!["model.layers.0.mlp.gate.weight"] = "b.safetensors");
        SafetensorsWriter.Write(Path.Combine(folder, "b.safetensors"), []);
        Refuses(folder, "model.layers.0.mlp.gate.weight", "b.safetensors");
    }

    [Fact]
    public void RefusesAMissingShard() =>
        Refuses(WriteIndexed(i => i["weight_map"]!["model.layers.0.mlp.gate.weight"] = "b.safetensors"), "b.safetensors", "does not exist");

    [Fact]
    public void RefusesATruncatedShard()
    {
        string folder = WriteIndexed();
        using (FileStream shard = File.OpenWrite(Path.Combine(folder, "a.safetensors"))) shard.SetLength(shard.Length - 1);
        Refuses(folder, "a.safetensors", "truncated");
    }

    [Fact]
    public void AWrongTotalSizeIsAWarning()
    {
        using Checkpoint model = Checkpoint.Open(WriteIndexed(i => i["metadata"]!["total_size"] = 1));
        Assert.Contains("1 bytes", Assert.Single(model.Warnings));
    }

    /// <summary>A second copy in a shard that the index does not name for it is not loaded and does not count.</summary>
    [Fact]
    public void ATensorInTwoShardsCountsOnce()
    {
        string folder = WriteIndexed(), second = Path.Combine(folder, "b.safetensors");
        const string router = "model.layers.0.mlp.gate.weight";
        long total;
        using (SafetensorsFile first = SafetensorsFile.Open(Path.Combine(folder, "a.safetensors")))
        {
            total = first.Tensors.Values.Sum(t => t.Bytes) + 3;
            SafetensorsWriter.Write(second, [TensorToWrite.Of("x", "U8", [3], new byte[3]), TensorToWrite.Of(router, "U8", [5], new byte[5])]);
        }
        WriteIndexed(i => (i["weight_map"]!["x"], i["metadata"]!["total_size"]) = ("b.safetensors", total));
        using Checkpoint model = Checkpoint.Open(folder);
        Assert.Empty(model.Warnings);
        model.ReadLayer(0).Dispose();
    }

    [Theory]
    [InlineData("{\"weight_map\":{\"a\":\"x\",\"a\":\"x\"}}", "twice")]
    [InlineData("{\"weight_map\":[]}", "weight_map")]
    [InlineData("{}", "weight_map")]
    [InlineData("{\"weight_map\":{\"a\":1}}", "string")]
    [InlineData("not json", "not a valid index")]
    [InlineData("{\"weight_map\":{}} {}", "not a valid index")]
    [InlineData("{\"weight_map\":{}} x", "not a valid index")]
    [InlineData("{\"weight_map\":{\"a\\u001b[31m\":\"x\"}}", "a\\u001B[31m holds a control character")]
    public void RefusesAnIndex(string json, string word)
    {
        File.WriteAllText(Path.Combine(Write(), "model.safetensors.index.json"), json);
        Refuses(_tiny.Folder, word);
    }

    [Fact]
    public void RefusesFoldersThatAreNone()
    {
        Refuses("/no/such/folder", "does not exist");
        Refuses(Path.Combine(Write(), "config.json"), "is a file");
        File.Delete(Path.Combine(_tiny.Folder, "model.safetensors"));
        Refuses(_tiny.Folder, "neither");
        File.Delete(Path.Combine(_tiny.Folder, "config.json"));
        Refuses(_tiny.Folder, "config.json");
    }

    [Theory]
    [InlineData("1.up_proj.weight_scale")] // a second set of scales
    [InlineData("01.up_proj.weight")]
    [InlineData("+1.up_proj.weight")]
    public void RefusesATensorOfALoadedExpertThatNobodyUses(string extra)
    {
        _tiny.AddBf16("model.layers.0.mlp.experts." + extra, 1, 2);
        Refuses(Write(), extra);
    }

    [Fact]
    public void RefusesTransposedExpertsThatAreNotBf16()
    {
        using var tiny = new TinyCheckpoint(2, 64, 64, WeightFormat.MxFp8);
        tiny.AddFused("model.layers.0.mlp.experts.", "_scale", "U8"); // H = I = 64: [E, 2I, H] and [E, H, 2I] differ, so gate_up is written anew
        tiny.AddBf16("model.layers.0.mlp.router.weight", 2, 64);
        tiny.AddBf16("model.layers.0.mlp.router.bias", 2);
        tiny.Config = """
            {"model_type":"gpt_oss","num_hidden_layers":1,"hidden_size":64,"intermediate_size":64,"num_local_experts":2,"num_experts_per_tok":1,
             "quantization_config":{"quant_method":"mxfp8"}}
            """;
        const string name = "model.layers.0.mlp.experts.gate_up_proj";
        string folder = tiny.Write(name);
        ReplaceTensor(folder, name, "F8_E4M3", [2, 64, 128], new byte[2 * 64 * 128]);
        Refuses(folder, "transposed", "F8_E4M3");
    }

    [Fact]
    public void RefusesLayersThatAreNotThere()
    {
        using Checkpoint model = Checkpoint.Open(Write());
        Assert.Contains("0 .. 0", Assert.Throws<ArgumentException>(() => model.ReadLayer(1)).Message);
        Assert.Contains("-1", Assert.Throws<ArgumentException>(() => model.ReadLayer(-1)).Message);
        Assert.Contains("0 .. 3", Assert.Throws<ArgumentException>(() => model.ReadLayer(0, new() { Experts = (3, 2) })).Message);
        Assert.Contains("0 .. 127", Assert.Throws<ArgumentException>(() => model.ReadLayer(0, new() { Intermediate = (64, 65) })).Message);
    }

    [Fact]
    public void RefusesARouterBiasThatIsNotFinite()
    {
        _config["model_type"] = "deepseek_v3";
        _tiny.Add("model.layers.0.mlp.gate.e_score_correction_bias", "F32", [4],
            [.. new[] { 0f, 1f, float.NaN, 2f }.SelectMany(BitConverter.GetBytes)]);
        Refuses(Write(), "e_score_correction_bias", "NaN", "element 2");
    }

    [Fact]
    public void FollowsLinksAsTheHuggingFaceCacheHasThem()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "links need rights on Windows");
        string folder = Write(), snapshot = Directory.CreateTempSubdirectory("moesharp-").FullName;
        foreach (string file in Directory.GetFiles(folder)) File.CreateSymbolicLink(Path.Combine(snapshot, Path.GetFileName(file)), file);
        Reads(snapshot);
        Directory.Delete(snapshot, recursive: true);
    }

    [Theory]
    [InlineData("modules_to_not_convert", "model.layers.0.mlp.experts", true)]
    [InlineData("ignored_layers", "re:.*experts\\..*", true)]
    [InlineData("exclude_modules", "*mlp.experts*", true)]
    [InlineData("ignore", "lm_head", false)]
    public void Bf16ExpertsNeedToBeLeftOutByTheConfig(string key, string entry, bool reads)
    {
        using var tiny = new TinyCheckpoint(2, 64, 64, WeightFormat.Bf16);
        tiny.AddPerExpert("model.layers.0.mlp.experts.", Names, "", "");
        tiny.AddBf16("model.layers.0.mlp.gate.weight", 2, 64);
        _config["num_experts"] = 2;
        _config["hidden_size"] = 64;
        _config["moe_intermediate_size"] = 64;
        _config["quantization_config"]![key] = new JsonArray(entry);
        tiny.Config = _config.ToJsonString();
        if (reads) Reads(tiny.Write());
        else Refuses(tiny.Write(), "BF16", "Block128");
    }

    [Fact]
    public void AlignedSlicesAreViewsAndOthersCopies()
    {
        using var tiny = new TinyCheckpoint(2, 256, 384, WeightFormat.Block128);
        tiny.AddPerExpert("model.layers.0.mlp.experts.", Names, "_scale_inv", "F32");
        tiny.AddBf16("model.layers.0.mlp.gate.weight", 2, 256);
        _config["num_experts"] = 2;
        _config["moe_intermediate_size"] = 384;
        tiny.Config = _config.ToJsonString();
        using Checkpoint model = Checkpoint.Open(tiny.Write());
        using LayerParts whole = model.ReadLayer(0), aligned = model.ReadLayer(0, new() { Intermediate = (128, 256) });
        using LayerParts odd = model.ReadLayer(0, new() { Intermediate = (160, 224) });
        Assert.All([whole, aligned], p => Assert.All(p.Experts.Gate.Concat(p.Experts.Up).Concat(p.Experts.Down),
            m => Assert.IsNotType<NativeBuffer>(m.Storage.ValuesOwner)));
        Assert.Equal(256, odd.Experts.IntermediateSize); // 32 leading zeros up to the block's start at 128
        Assert.IsType<NativeBuffer>(odd.Experts.Down[0].Storage.ValuesOwner);
    }
}
