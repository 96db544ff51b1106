using System.Text.Json;

namespace MoeSharp.Tests;

/// <summary>
/// A tiny checkpoint with what its MoE blocks are expected to give, read in the plainest way and without the library's own reader. Samples lie in
/// this repository and, more of them, in an optional folder beside it.
/// </summary>
internal sealed class SampleCheckpoint
{
    private readonly JsonElement _config;
    private readonly Tensors[] _shards;
    private readonly Tensors _expected;

    public SampleCheckpoint(string folder)
    {
        Folder = folder;
        _config = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "config.json"))).RootElement;
        _shards = [.. Directory.GetFiles(folder, "model*.safetensors").Select(f => new Tensors(f))];
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
        Enumerable.Range(0, Number("num_hidden_layers", 0)).Where(l => _expected.Has($"model.layers.{l}.mlp/T1/output"));

    /// <summary>What the block of a layer is expected to do with T tokens; T is 1, 5 or 33.</summary>
    public (BFloat16[] Hidden, int[] Ids, float[] Weights, float[] Output) Expected(int layer, int tokens)
    {
        string at = $"model.layers.{layer}.mlp/T{tokens}/";
        return (_expected.Get<BFloat16>(at + "hidden_states"), _expected.Get<int>(at + "experts_in1"), _expected.Get<float>(at + "experts_in2"),
            _expected.Get<float>(at + "output"));
    }

    public LayerParts Parts(int layer)
    {
        string block = new[] { "mlp", "block_sparse_moe" }.Select(b => $"model.layers.{layer}.{b}")
            .First(b => Has(b + ".gate.weight") || Has(b + ".router.weight"));
        string router = Floats(block + ".gate.weight") is null ? block + ".router" : block + ".gate";
        int topK = Number("num_experts_per_tok", Number("moe_k", 0)), experts = Floats(router + ".weight")!.Length / Number("hidden_size", 0);
        string shared = Has(block + ".shared_experts.gate_proj.weight") ? block + ".shared_experts" : block + ".shared_expert";
        return new LayerParts
        {
            Layer = layer,
            Router = Router(experts, topK),
            RouterWeight = Floats(router + ".weight")!,
            RouterLogitBias = Floats(router + ".bias"),
            RouterCorrectionBias = Floats(router + ".e_score_correction_bias") ?? Floats(block + ".e_score_correction_bias")
                ?? Floats(block + ".moe_statics.e_score_correction_bias"),
            Experts = Family == "gpt_oss" ? Interleaved(block + ".experts") : Separate(block + ".experts", experts),
            ExpertsOptions = new ExpertsOptions { TopK = topK, Activation = Family == "gpt_oss" ? Activation.SwigluOai() : Activation.Silu() },
            SharedExperts = Has(shared + ".gate_proj.weight")
                ? new ExpertWeights([Matrix(shared + ".gate_proj")], [Matrix(shared + ".up_proj")], [Matrix(shared + ".down_proj")]) : null,
            SharedGate = Floats(block + ".shared_expert_gate.weight"),
        };
    }

    private RouterOptions Router(int experts, int topK) => new()
    {
        Experts = experts,
        TopK = topK,
        Scoring = Family switch
        {
            "gpt_oss" => RouterScoring.TopkSoftmax,
            "deepseek_v3" or "glm4_moe" or "dots1" or "minimax_m2" => RouterScoring.Sigmoid,
            _ => RouterScoring.Softmax,
        },
        Groups = Number("n_group", 1),
        TopkGroups = Number("topk_group", 1),
        Renormalize = Family is "mixtral" or "minimax_m2" or "ernie4_5_moe"
            || (_config.TryGetProperty("norm_topk_prob", out JsonElement norm) && norm.GetBoolean()),
        ScalingFactor = _config.TryGetProperty("routed_scaling_factor", out JsonElement factor) ? factor.GetSingle() : 1,
    };

    private ExpertWeights Separate(string name, int experts)
    {
        string[] names = Has(name + ".0.w1.weight") ? ["w1", "w3", "w2"] : ["gate_proj", "up_proj", "down_proj"];
        BlockScaledMatrix[][] all = [.. names.Select(n => Enumerable.Range(0, experts).Select(e => Matrix($"{name}.{e}.{n}")).ToArray())];
        return new ExpertWeights(all[0], all[1], all[2]);
    }

    /// <summary>gpt-oss: gate_up_proj [E, H, 2I] with gate and up columns alternating, down_proj [E, I, H], and biases.</summary>
    private ExpertWeights Interleaved(string name)
    {
        Tensors shard = _shards.First(s => s.Has(name + ".gate_up_proj"));
        int[] shape = [.. shard.Shape(name + ".gate_up_proj").Select(d => (int)d)];
        (int experts, int h, int i) = (shape[0], shape[1], shape[2] / 2);
        BFloat16[] gateUp = shard.Get<BFloat16>(name + ".gate_up_proj");
        BFloat16[] down = _shards.First(s => s.Has(name + ".down_proj")).Get<BFloat16>(name + ".down_proj");
        float[] bias = Floats(name + ".gate_up_proj_bias")!;
        BlockScaledMatrix[] Make(int rows, int columns, Func<int, int, int, BFloat16> at) => [.. Enumerable.Range(0, experts).Select(e =>
            BlockScaledMatrix.CreateBf16(rows, columns, [.. Enumerable.Range(0, rows * columns).Select(n => at(e, n / columns, n % columns))]))];
        return new ExpertWeights(
            Make(i, h, (e, r, c) => gateUp[(e * h + c) * 2 * i + 2 * r]),
            Make(i, h, (e, r, c) => gateUp[(e * h + c) * 2 * i + 2 * r + 1]),
            Make(h, i, (e, r, c) => down[(e * i + c) * h + r]),
            new ExpertBiases([.. bias.Where((_, n) => n % 2 == 0)], [.. bias.Where((_, n) => n % 2 == 1)], Floats(name + ".down_proj_bias")!));
    }

    private BlockScaledMatrix Matrix(string name)
    {
        Tensors shard = _shards.First(s => s.Has(name + ".weight"));
        string quantization = _config.GetProperty("quantization_config").ToString();
        WeightFormat format = quantization.Contains("mxfp8") ? WeightFormat.MxFp8
            : quantization.Contains("ue8m0") ? WeightFormat.Block128PowerOfTwo : WeightFormat.Block128;
        long[] shape = shard.Shape(name + ".weight");
        float[] scales = Floats(name + ".weight_scale_inv") ?? Floats(name + ".weight_scale")!;
        return BlockScaledMatrix.Create(format, (int)shape[0], (int)shape[1], shard.Get<Float8E4M3>(name + ".weight"), scales, name);
    }

    private bool Has(string name) => _shards.Any(s => s.Has(name));

    private float[]? Floats(string name) => _shards.FirstOrDefault(s => s.Has(name)) switch
    {
        null => null,
        var s when s.Type(name) == "F32" => s.Get<float>(name),
        var s when s.Type(name) == "U8" => [.. s.Get<byte>(name).Select(b => ScaleE8M0.FromBits(b).ToSingle())],
        var s => [.. s.Get<BFloat16>(name).Select(v => v.ToSingle())],
    };

    private int Number(string key, int otherwise) =>
        _config.TryGetProperty(key, out JsonElement value) && value.ValueKind == JsonValueKind.Number ? value.GetInt32() : otherwise;
}
