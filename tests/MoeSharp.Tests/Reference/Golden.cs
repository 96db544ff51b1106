using System.Globalization;

namespace MoeSharp.Tests;

/// <summary>One recorded layer; see Data/golden/README.md.</summary>
internal sealed class Golden
{
    private readonly Tensors _tensors;

    private Golden(Tensors tensors)
    {
        _tensors = tensors;
        Tokens = Int("T");
        Hidden = Int("H");
        Intermediate = Int("I");
        Experts = Int("El");
        GlobalExperts = Int("E");
        TopK = Int("topk");
        Format = tensors.Metadata("ue8m0") == "True" ? WeightFormat.Block128PowerOfTwo : WeightFormat.Block128;
        float? limit = tensors.Metadata("clamp") is { } clamp && clamp != "None" ? Float(clamp) : null;
        Activation = tensors.Metadata("activation") switch
        {
            "silu" => Activation.Silu(limit),
            "swigluoai_uninterleave" => Activation.SwigluOai(Float(tensors.Metadata("alpha")!), Float(tensors.Metadata("beta")!), limit),
            "swiglustep" => Activation.SwigluStep(),
            var other => throw new InvalidDataException($"The vectors name an unknown activation {other}."),
        };
    }

    public static TheoryData<string> Names => ["g1_silu", "g2_expert_map", "g3_silu_ue8m0", "g4_swigluoai_uninterleave", "g5_swiglustep", "g6_silu_clamp"];

    public int Tokens { get; }
    public int Hidden { get; }
    public int Intermediate { get; }
    public int Experts { get; }
    public int GlobalExperts { get; }
    public int TopK { get; }
    public WeightFormat Format { get; }
    public Activation Activation { get; }
    public bool HasWeights => _tensors.Has("w13");
    public int[] Ids => _tensors.Get<int>("topk_ids");
    public float[] Weights => _tensors.Get<float>("topk_weights");
    public int[] ExpertMap => _tensors.Has("expert_map") ? _tensors.Get<int>("expert_map") : [];
    /// <summary>The permuted row of each i in `*_rows` tensors.</summary>
    public int[] RecordedRows => _tensors.Get<int>("rows");

    /// <summary>The complete recording beside the checkout, or what the project carries; skips the test where neither is there.</summary>
    public static Golden Open(string name)
    {
        string copies = Repository.PathOf("tests/MoeSharp.Tests/Data/golden");
        string? path = new[] { SharedData.Find($"golden/{name}.safetensors"), $"{copies}/{name}.safetensors", $"{copies}/{name}.stages.safetensors" }.FirstOrDefault(File.Exists);
        Assert.SkipWhen(path is null, $"{name} is not in the project and there is no shared data beside it.");
        return new(new Tensors(path!));
    }

    /// <summary>The same, with weights.</summary>
    public static Golden OpenWhole(string name)
    {
        Golden golden = Open(name);
        Assert.SkipUnless(golden.HasWeights, $"{name} is in the project without its weights, and there is no shared data beside it.");
        return golden;
    }

    public T[] Get<T>(string name) where T : unmanaged => _tensors.Get<T>(name);

    public bool Has(string name) => _tensors.Has(name);

    public ExpertWeights Load() => ExpertWeights.FromPacked(Format, Experts, Hidden, Intermediate,
        Get<Float8E4M3>("w13"), Get<float>("w13_scale"), Get<Float8E4M3>("w2"), Get<float>("w2_scale"));

    public ExpertsOptions Options => new()
    {
        TopK = TopK,
        Activation = Activation,
        GlobalExperts = GlobalExperts == Experts ? -1 : GlobalExperts,
        RowAlignment = 128,
    };

    /// <summary>A shape with these sizes, for the stages that need no weights.</summary>
    public ExpertsShape Shape()
    {
        using ExpertWeights weights = RandomLayer.Zeros(Format, Experts, Hidden, Intermediate);
        return ExpertsShape.From(Options, weights);
    }

    /// <summary>Rows [n, width] as the operand of a GEMM.</summary>
    public Rows Quantized(string codes, string scales, int width) =>
        new(width, Formats.Blocks(width, 128)) { Codes = Get<Float8E4M3>(codes), Scales = Get<float>(scales) };

    private int Int(string key) => int.Parse(_tensors.Metadata(key)!, CultureInfo.InvariantCulture);

    private static float Float(string text) => float.Parse(text, CultureInfo.InvariantCulture);
}
