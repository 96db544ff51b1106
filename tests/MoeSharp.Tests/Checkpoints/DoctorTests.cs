using System.Buffers.Binary;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace MoeSharp.Tests;

/// <summary>Every code of the doctor planted in a copy of a checkpoint and found where it was planted; checkpoints as published are clean.</summary>
public sealed class DoctorTests : IDisposable
{
    private const string Shard = "model.safetensors", Gate5 = "model.layers.1.mlp.experts.5.gate_proj.weight", Scale5 = Gate5 + "_scale_inv";
    private const string Router = "model.layers.1.mlp.gate.weight";
    private static readonly string Sample = Repository.PathOf("samples/tiny-qwen3-moe-fp8");
    private readonly TemporaryFolder _folder = new();
    private readonly Dictionary<string, (string Type, long[] Shape, byte[] Data)> _tensors = [];
    private readonly JsonObject _config;

    /// <summary>Starts from the sample's tensors and config, as one file without an index.</summary>
    public DoctorTests()
    {
        Load(Sample);
        _config = JsonNode.Parse(File.ReadAllText(Path.Combine(Sample, "config.json")))!.AsObject();
    }

    public void Dispose() => _folder.Dispose();

    public static TheoryData<string> Folders => new(SampleCheckpoint.Folders());

    [Theory]
    [MemberData(nameof(Folders))]
    public void SamplesAreClean(string folder)
    {
        ToolRun run = ToolRun.Of("doctor", folder, "--json");
        Assert.True(run.ExitCode == 0, run.Output + run.Error);
        Assert.True(run.Json().GetProperty("findings").GetArrayLength() == 0, run.Output);
        Assert.Contains("Nothing found.", ToolRun.Of("doctor", folder).Output);
    }

    [Fact]
    public void ScalesThatAreWrong()
    {
        void Plant(string code, string type, byte[] bits, bool powersOfTwo = false)
        {
            Quantization()["scale_fmt"] = powersOfTwo ? "ue8m0" : "float";
            (string, long[], byte[]) before = _tensors[Scale5];
            // Block (0, 1) is the second of two; all others are 1.
            byte[] one = type switch { "F32" => BitConverter.GetBytes(1f), "F16" => BitConverter.GetBytes((Half)1), "BF16" => [0x80, 0x3F], _ => [127] };
            _tensors[Scale5] = (type, [1, 2], [.. one, .. bits]);
            if (powersOfTwo) MakeScalesPowersOfTwo();
            ExpectOne(code, Shard, Scale5, 1, 5, (0, 1));
            _tensors[Scale5] = before;
        }

        Plant("scale-zero", "F32", BitConverter.GetBytes(0f));
        Plant("scale-subnormal", "F32", BitConverter.GetBytes(1e-40f));
        Plant("scale-subnormal", "F16", [1, 0]);
        Plant("scale-subnormal", "F8_E8M0", [0]);
        Plant("scale-nan", "F32", BitConverter.GetBytes(float.NaN));
        Plant("scale-nan", "BF16", [0xC0, 0x7F]);
        Plant("scale-inf", "F32", BitConverter.GetBytes(float.PositiveInfinity));
        Plant("scale-inf", "F16", BitConverter.GetBytes(Half.NegativeInfinity));
        Plant("scale-negative", "F32", BitConverter.GetBytes(-0.5f));
        Plant("scale-tiny", "F32", BitConverter.GetBytes(1e-23f));
        Plant("scale-tiny", "U8", [127 - 77]);
        Plant("scale-e8m0-nan", "U8", [255]);
        Plant("scale-not-pow2", "F32", BitConverter.GetBytes(0.3f), powersOfTwo: true);
    }

    [Fact]
    public void TypesAndShapesOfScales()
    {
        (string Type, long[] Shape, byte[] Data) scales = _tensors[Scale5];
        _tensors[Scale5] = ("I32", [1, 2], scales.Data);
        ExpectOne("scale-dtype", Shard, Scale5, 1, 5);
        _tensors[Scale5] = ("F32", [1, 7], new byte[28]);
        ExpectOne("scale-shape", Shard, Scale5, 1, 5);
        foreach (long[] shape in (long[][])[[1], [128, 1], [128, 8], [128, 2]])
        {
            _tensors[Scale5] = ("F32", shape, new byte[4 * shape.Aggregate((a, b) => a * b)]);
            ExpectOne("scale-granularity", Shard, Scale5, 1, 5);
        }
        _tensors.Remove(Scale5);
        ExpectOne("scale-missing", Shard, Gate5, 1, 5);
    }

    [Fact]
    public void ValuesThatAreWrong()
    {
        byte[] original = _tensors[Gate5].Data;
        void Plant(string code, Action<byte[]> change)
        {
            byte[] data = [.. original];
            change(data);
            _tensors[Gate5] = _tensors[Gate5] with { Data = data };
            ExpectOne(code, Shard, Gate5, 1, 5, (0, 1));
        }

        foreach (byte code in (byte[])[0x7F, 0xFF]) Plant("payload-nan", data => data[77 * 256 + 131] = code);
        Plant("block-zero", data => ForBlock(data, 128, i => (byte)(i % 2 == 0 ? 0 : 0x80)));
        Plant("payload-saturated", data => ForBlock(data, 128, i => (byte)(i % 90 == 0 ? i % 180 == 0 ? 0x7E : 0xFE : 0x38)));
        _tensors[Gate5] = _tensors[Gate5] with { Data = original };
        ForBlock(original, 128, i => (byte)(i % 110 == 0 ? 0x7E : 0x38)); // under 1 %
        Assert.Empty(Examine());
    }

    [Fact]
    public void SeveralBlocksOfATensorAreOneFindingWithACount()
    {
        Array.Fill(_tensors[Gate5].Data, (byte)0x7F);
        Finding finding = Assert.Single(Examine());
        Assert.Equal("payload-nan", finding.Code.Name);
        Assert.Equal((0, 0), finding.At.Block);
        Assert.Contains("16384 NaN codes in block (0, 0), the first of 2 such blocks", finding.Message);
    }

    [Fact]
    public void TypesAndShapesOfWeights()
    {
        (string Type, long[] Shape, byte[] Data) gate = _tensors[Gate5];
        _tensors[Gate5] = gate with { Shape = [256, 128] };
        ExpectOne("weight-shape", Shard, Gate5, 1, 5);
        _tensors[Gate5] = gate with { Type = "F8_E5M2" };
        ExpectOne("weight-dtype", Shard, Gate5, 1, 5);
        _tensors[Gate5] = gate;
        (string Type, long[] Shape, byte[] Data) router = _tensors[Router];
        _tensors[Router] = router with { Shape = [8, 512] };
        ExpectOne("weight-shape", Shard, Router, 1, null);
        _tensors[Router] = router with { Type = "I16" };
        ExpectOne("weight-dtype", Shard, Router, 1, null);
        _tensors[Router] = router;
        Quantization()["modules_to_not_convert"] = new JsonArray("model.layers.1.mlp.experts.5.gate_proj");
        ExpectOne("weight-dtype", Shard, Gate5, 1, 5);
    }

    [Fact]
    public void Bf16ExpertsMustBeLeftOutAndFinite()
    {
        var data = new byte[128 * 256 * 2];
        for (int i = 0; i < data.Length; i += 2) data[i + 1] = 0x3F;
        _tensors[Gate5] = ("BF16", [128, 256], data);
        _tensors.Remove(Scale5);
        ExpectOne("weight-dtype", Shard, Gate5, 1, 5);
        Quantization()["modules_to_not_convert"] = new JsonArray("model.layers.1.mlp.experts.5.gate_proj");
        Assert.Empty(Examine());
        (data[2 * (3 * 256 + 9)], data[2 * (3 * 256 + 9) + 1]) = (0x80, 0xFF);
        ExpectOne("payload-nonfinite", Shard, Gate5, 1, 5);
        Array.Clear(data);
        ExpectOne("block-zero", Shard, Gate5, 1, 5);
    }

    [Theory]
    [InlineData(0x7F80)]
    [InlineData(0x7FC0)]
    public void RoutersThatAreNotFinite(int bits)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(_tensors[Router].Data.AsSpan(2 * 300), (ushort)bits);
        ExpectOne("router-nonfinite", Shard, Router, 1, null);
    }

    [Fact]
    public void RouterBiasesThatAreNotFiniteOrMissing()
    {
        const string bias = "model.layers.0.block_sparse_moe.e_score_correction_bias";
        string folder = Repository.PathOf("tests/MoeSharp.Tests/Data/checkpoints/minimax-m2-fp8");
        _tensors.Clear();
        Load(folder);
        foreach (string key in _config.Select(p => p.Key).ToArray()) _config.Remove(key);
        foreach ((string key, JsonNode? value) in JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!.AsObject()) _config[key] = value?.DeepClone();
        (string Type, long[] Shape, byte[] Data) good = _tensors[bias];
        _tensors[bias] = ("F32", [8], [.. new byte[12], .. BitConverter.GetBytes(float.NaN), .. new byte[16]]);
        ExpectOne("router-nonfinite", Shard, bias, 0, null);
        _tensors[bias] = good;
        Assert.Empty(Examine());
        _tensors.Remove(bias);
        ExpectOne("tensor-missing", null, bias, 0, null);
        _config["use_routing_bias"] = false;
        Assert.Empty(Examine());
    }

    [Fact]
    public void NamesThatAreWrong()
    {
        (string, long[], byte[]) gate = _tensors[Gate5];
        _tensors.Remove(Gate5);
        _tensors.Remove(Scale5);
        ExpectOne("tensor-missing", null, Gate5, 1, 5);
        _tensors.Add(Gate5.Replace("gate_proj", "gate_prj"), gate);
        ExpectOne("tensor-misnamed", Shard, Gate5.Replace("gate_proj", "gate_prj"), 1, 5);
    }

    [Theory]
    [InlineData("model.layers.1.mlp.experts.16.gate_proj.weight", 1, 16)]
    [InlineData("model.layers.0.mlp.shared_expert.up_proj.weight", 0, null)]
    [InlineData("model.layers.2.mlp.experts.3.up_proj.weight", 2, 3)]
    public void TensorsTheConfigKnowsNothingOf(string name, int layer, int? expert)
    {
        _tensors.Add(name, _tensors[Gate5]);
        ExpectOne("tensor-extra", Shard, name, layer, expert);
    }

    [Fact]
    public void IgnoreLists()
    {
        Quantization()["modules_to_not_convert"] = new JsonArray("lm_head", "model.layers.0.mlp.gate", "re:.*self_attn.*");
        Assert.Empty(Examine());
        Quantization()["modules_to_not_convert"] = new JsonArray("lm_heat");
        ExpectOne("ignore-unmatched", "config.json", null, null, null);
        Quantization()["modules_to_not_convert"] = new JsonArray("re:(");
        ExpectOne("ignore-invalid", "config.json", null, null, null);
    }

    [Theory]
    [InlineData("model_type", "martian")]
    [InlineData("num_local_experts", -4)]
    public void ConfigsThatAreNotUnderstood(string key, object value)
    {
        _config[key] = JsonSerializer.SerializeToNode(value);
        ExpectOne("config-unsupported", "config.json", null, null, null);
    }

    [Fact]
    public void IndexAndShards()
    {
        void Plant(string code, string? file, string? tensor, Action<JsonObject> change)
        {
            Split();
            JsonObject index = JsonNode.Parse(File.ReadAllText(_folder["model.safetensors.index.json"]))!.AsObject();
            change(index["weight_map"]!.AsObject());
            File.WriteAllText(_folder["model.safetensors.index.json"], index.ToJsonString());
            AssertOne(code, file, tensor, null, null, null, Run());
        }

        const string a = "model-a.safetensors", b = "model-b.safetensors", index = "model.safetensors.index.json";
        Split();
        Assert.Empty(Run());
        Plant("index-stale", b, Router, map => map[Router] = b);
        Plant("index-path", index, "x", map => map["x"] = "../" + a);
        Plant("index-path", index, "x", map => map["x"] = "/etc/passwd");
        Plant("index-invalid", index, "x", map => map["x"] = 3);
        Plant("shard-missing", "model-c.safetensors", null, map => map["x"] = "model-c.safetensors");
        Plant("tensor-unlisted", a, Router, map => map.Remove(Router));
        Plant("shard-unlisted", "extra.safetensors", null, _ => Write("extra.safetensors", name => name == Router));
        Plant("tensor-duplicated", b, Router, _ => Write(b, name => !IsOfFirstShard(name) || name == Router));
        Plant("shard-unreadable", b, null, _ => File.WriteAllBytes(_folder[b], File.ReadAllBytes(_folder[b])[..^1]));
        Plant("shard-unreadable", b, null, _ => File.WriteAllBytes(_folder[b], [.. BitConverter.GetBytes(40L), .. "{ this is not JSON and never will be :-)"u8]));
        Plant("shard-unreadable", b, null, _ => File.WriteAllBytes(_folder[b], []));

        Split();
        string text = File.ReadAllText(_folder[index]);
        File.WriteAllText(_folder[index], text.Replace("{\"weight_map\":{", $"{{\"weight_map\":{{\"{Router}\":\"{a}\",", StringComparison.Ordinal));
        AssertOne("index-duplicate", index, Router, null, null, null, Run());
        File.WriteAllText(_folder[index], text[..^9]);
        AssertOne("index-invalid", index, null, null, null, null, Run());
        File.Delete(_folder[index]);
        AssertOne("index-missing", index, null, null, null, null, Run());
    }

    [Fact]
    public void KeepsGoingAfterATruncatedShard()
    {
        _tensors[Gate5].Data[9] = 0x7F;
        Split();
        File.WriteAllBytes(_folder["model-b.safetensors"], File.ReadAllBytes(_folder["model-b.safetensors"])[..5000]);
        Assert.Equal(["payload-nan", "shard-unreadable"], Run().Select(f => f.Code.Name).Order());
    }

    [Fact]
    public void FusedExpertsAreFoundByExpert()
    {
        const string name = "model.layers.1.mlp.experts.gate_up_proj";
        var fused = new byte[16 * 256 * 256];
        var scales = new List<byte>();
        for (int e = 0; e < 16; e++)
        {
            int at = e * 256 * 256;
            foreach (string half in (string[])["gate_proj", "up_proj"])
            {
                string part = $"model.layers.1.mlp.experts.{e}.{half}.weight";
                _tensors[part].Data.CopyTo(fused, at);
                at += 128 * 256;
                scales.AddRange(_tensors[part + "_scale_inv"].Data);
                _tensors.Remove(part);
                _tensors.Remove(part + "_scale_inv");
            }
        }
        byte[] down = [.. Enumerable.Range(0, 16).SelectMany(e => Take($"model.layers.1.mlp.experts.{e}.down_proj.weight"))];
        byte[] downScales = [.. Enumerable.Range(0, 16).SelectMany(e => Take($"model.layers.1.mlp.experts.{e}.down_proj.weight_scale_inv"))];
        _tensors[name] = ("F8_E4M3", [16, 256, 256], fused);
        _tensors[name + "_scale_inv"] = ("F32", [16, 2, 2], [.. scales]);
        _tensors["model.layers.1.mlp.experts.down_proj"] = ("F8_E4M3", [16, 256, 128], down);
        _tensors["model.layers.1.mlp.experts.down_proj_scale_inv"] = ("F32", [16, 2, 1], downScales);
        Assert.Empty(Examine());
        fused[(11 * 256 + 200) * 256 + 131] = 0xFF;
        ExpectOne("payload-nan", Shard, name, 1, 11, (1, 1));
    }

    [Fact]
    public void JsonHasExactlyThePromisedMembersAndExitCodes()
    {
        _tensors[Scale5] = ("F32", [1, 2], [.. BitConverter.GetBytes(1f), .. BitConverter.GetBytes(1e-23f)]);
        Save();
        ToolRun warning = ToolRun.Of("doctor", _folder.Root, "--json");
        JsonElement finding = Assert.Single(warning.Json().GetProperty("findings").EnumerateArray().ToArray());
        Assert.Equal(["code", "severity", "file", "tensor", "layer", "expert", "block", "message"], finding.EnumerateObject().Select(p => p.Name));
        Assert.Equal($"scale-tiny warning {Shard} {Scale5} 1 5 [0,1]",
            $"{finding.GetProperty("code")} {finding.GetProperty("severity")} {finding.GetProperty("file")} {finding.GetProperty("tensor")} " +
            $"{finding.GetProperty("layer")} {finding.GetProperty("expert")} {string.Concat(finding.GetProperty("block").GetRawText().Where(c => !char.IsWhiteSpace(c)))}");
        _tensors.Remove(Gate5);
        Save();
        Assert.Equal(1, ToolRun.Of("doctor", _folder.Root).ExitCode);
        File.WriteAllText(_folder["config.json"], "{");
        Assert.Contains("config.json", ToolRun.Of("doctor", _folder.Root).Sentence());
        File.Delete(_folder["config.json"]);
        Assert.Contains("config.json", ToolRun.Of("doctor", _folder.Root).Sentence());
        Assert.Contains("does not exist", ToolRun.Of("doctor", _folder["none"]).Sentence());
    }

    /// <summary>The page lists each code with its severity, and this file plants each.</summary>
    [Fact]
    public void EveryCodeIsDocumentedAndPlanted()
    {
        string page = Repository.ReadText("docs/doctor.md"), tests = Repository.ReadText("tests/MoeSharp.Tests/Checkpoints/DoctorTests.cs");
        string[] rows = [.. page.Split('\n').Where(l => l.StartsWith("| `", StringComparison.Ordinal))];
        Assert.Equal(FindingCode.All.Select(c => $"| `{c.Name}` | {(c.Severity == Severity.Error ? "error" : "warning")} | {c.Why} | {c.Remedy} |"), rows);
        Assert.Equal(FindingCode.All.Count, FindingCode.All.Select(c => c.Name).Distinct().Count());
        foreach (FindingCode code in FindingCode.All) Assert.True(tests.Contains($"\"{code.Name}\"", StringComparison.Ordinal), $"{code.Name} is not planted.");
    }

    private JsonObject Quantization() => _config["quantization_config"]!.AsObject();

    private static void ForBlock(byte[] data, int column, Func<int, byte> code)
    {
        for (int i = 0; i < 128 * 128; i++) data[i / 128 * 256 + column + i % 128] = code(i);
    }

    private void MakeScalesPowersOfTwo()
    {
        foreach (string name in _tensors.Keys.Where(n => n.EndsWith("_scale_inv", StringComparison.Ordinal) && n != Scale5).ToArray())
            _tensors[name] = _tensors[name] with { Data = [.. Enumerable.Repeat(BitConverter.GetBytes(0.25f), _tensors[name].Data.Length / 4).SelectMany(b => b)] };
    }

    private byte[] Take(string name)
    {
        byte[] data = _tensors[name].Data;
        _tensors.Remove(name);
        return data;
    }

    private void Load(string folder)
    {
        foreach (string path in Directory.GetFiles(folder, "model*.safetensors"))
        {
            using var file = SafetensorsFile.Open(path);
            foreach (TensorEntry t in file.Tensors.Values) _tensors.Add(t.Name, (t.Type, t.Shape, file.Data(t.Name).ToArray()));
        }
    }

    private void Write(string file, Func<string, bool> which) =>
        SafetensorsWriter.Write(_folder[file], [.. _tensors.Where(t => which(t.Key)).Select(t => TensorToWrite.Of(t.Key, t.Value.Type, t.Value.Shape, t.Value.Data))]);

    private void Save()
    {
        File.WriteAllText(_folder["config.json"], _config.ToJsonString());
        Write(Shard, _ => true);
    }

    private static bool IsOfFirstShard(string name) => name.Contains(".layers.1.", StringComparison.Ordinal);

    /// <summary>The same tensors in two shards with an index, and nothing else.</summary>
    private void Split()
    {
        foreach (string file in Directory.GetFiles(_folder.Root)) File.Delete(file);
        File.WriteAllText(_folder["config.json"], _config.ToJsonString());
        Write("model-a.safetensors", IsOfFirstShard);
        Write("model-b.safetensors", name => !IsOfFirstShard(name));
        var map = new JsonObject();
        foreach (string name in _tensors.Keys) map[name] = IsOfFirstShard(name) ? "model-a.safetensors" : "model-b.safetensors";
        File.WriteAllText(_folder["model.safetensors.index.json"], new JsonObject { ["weight_map"] = map }.ToJsonString());
    }

    private IReadOnlyList<Finding> Examine()
    {
        Save();
        return Run();
    }

    private IReadOnlyList<Finding> Run()
    {
        using var doctor = new Doctor(_folder.Root);
        doctor.Scan((_, _) => { }, TestContext.Current.CancellationToken);
        return doctor.Findings;
    }

    private void ExpectOne(string code, string? file, string? tensor, int? layer, int? expert, (int, int)? block = null) =>
        AssertOne(code, file, tensor, layer, expert, block, Examine());

    private static void AssertOne(string code, string? file, string? tensor, int? layer, int? expert, (int, int)? block, IReadOnlyList<Finding> findings)
    {
        Assert.True(findings.Count == 1, $"{code} of {tensor} was planted and this was found: {string.Join("; ", findings.Select(f => $"{f.Code.Name}: {f.What}"))}");
        Finding found = findings[0];
        Assert.Equal((code, new Place(file, tensor, layer, expert, block)), (found.Code.Name, found.At));
        Assert.EndsWith($"{found.Code.Why} {found.Code.Remedy}", found.Message);
    }
}
