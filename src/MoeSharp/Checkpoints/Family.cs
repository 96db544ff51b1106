namespace MoeSharp;

/// <summary>How one model family names and configures its MoE layers: a table, one per file under Families. Names are relative to the
/// block.</summary>
internal sealed record Family
{
    /// <summary>What the tool prints.</summary>
    public required string Name { get; init; }
    /// <summary>model_type values in config.json.</summary>
    public required string[] ModelTypes { get; init; }
    /// <summary>The MoE block inside a decoder layer: layers.L.{Block}.</summary>
    public string Block { get; init; } = "mlp";
    /// <summary>The three projections of an expert: gate, up, down.</summary>
    public (string Gate, string Up, string Down) Projections { get; init; } = ("gate_proj", "up_proj", "down_proj");
    /// <summary>Fused gate_up tensors are [E, H, 2I] and down tensors [E, I, H].</summary>
    public bool Transposed { get; init; }
    /// <summary>Router weight [E, H].</summary>
    public string RouterWeight { get; init; } = "gate.weight";
    /// <summary>Added to logits; null without.</summary>
    public string? RouterLogitBias { get; init; }
    /// <summary>Added for selection only; null without.</summary>
    public string? RouterCorrectionBias { get; init; }
    /// <summary>Whether the config promises that bias; then a checkpoint without it is incomplete.</summary>
    public Func<ModelConfig, bool> NeedsCorrectionBias { get; init; } = static _ => true;
    /// <summary>Shared experts, as one wide expert; null without.</summary>
    public string? Shared { get; init; }
    /// <summary>Gate of the shared expert [1, H]; null without.</summary>
    public string? SharedGate { get; init; }
    /// <summary>I of the shared experts; 0 without.</summary>
    public Func<ModelConfig, int> SharedIntermediate { get; init; } = static c => SharedWidth(c, "n_shared_experts", "num_shared_experts");
    /// <summary>Whether a decoder layer has a MoE block.</summary>
    public Func<ModelConfig, int, bool> IsMoe { get; init; } = static (_, _) => true;
    /// <summary>The activation of a layer's routed experts.</summary>
    public Func<ModelConfig, int, Activation> Activation { get; init; } = static (c, _) => HiddenAct(c);
    /// <summary>What these two read of the config, of all that begins with swiglu_.</summary>
    public string[] SwigluKeys { get; init; } = ["swiglu_limit"];
    /// <summary>The activation of a layer's shared experts.</summary>
    public Func<ModelConfig, int, Activation> SharedActivation { get; init; } = static (c, _) => HiddenAct(c);
    /// <summary>How the router works.</summary>
    public required Func<ModelConfig, RouterOptions> Router { get; init; }
    /// <summary>How the family's published FP8 checkpoints store the scales of 128 x 128 blocks.</summary>
    public ScaleType BlockScales { get; init; } = ScaleType.F32;
    /// <summary>What those checkpoints call E4M3 in quantization_config.</summary>
    public string Fp8Name { get; init; } = "e4m3";
    /// <summary>Tensors of the block that are known and not needed.</summary>
    public string[] Ignored { get; init; } = [];

    /// <summary>Start of the names of a layer's block.</summary>
    public string BlockPrefix(string prefix, int layer) => $"{prefix}layers.{layer}.{Block}.";

    /// <summary>Start of the names of a layer's shared experts; only for families that have them.</summary>
    public string SharedPrefix(string prefix, int layer) => Shared!.StartsWith("../", StringComparison.Ordinal)
        ? $"{prefix}layers.{layer}.{Shared[3..]}."
        : $"{BlockPrefix(prefix, layer)}{Shared}.";

    public static int Experts(ModelConfig c) =>
        c.Size(ModelConfig.MostExperts, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts");

    public static int TopK(ModelConfig c) =>
        c.Size(ModelConfig.MostExperts, "num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k", "moe_topk", "num_experts_per_topk");

    public static int Hidden(ModelConfig c) => c.Size(ModelConfig.Widest, "hidden_size");

    public static int Layers(ModelConfig c) => c.Size(ModelConfig.MostLayers, "num_hidden_layers");

    public static int Intermediate(ModelConfig c) => c.Size(ModelConfig.Widest, "moe_intermediate_size", "expert_hidden_dim", "intermediate_size");

    /// <summary>I of so many shared experts side by side, each as wide as a routed one.</summary>
    public static int SharedWidth(ModelConfig c, params ReadOnlySpan<string> keysOfCount)
    {
        long width = (long)(c.Int(keysOfCount) ?? 0) * Intermediate(c);
        return width <= ModelConfig.Widest
            ? (int)width
            : throw new CheckpointException(
                $"{c.Path}: {string.Join(" or ", keysOfCount!)} makes shared experts {width} wide; at most {ModelConfig.Widest} is supported.");
    }

    /// <summary>How the router works, checked.</summary>
    public RouterOptions RouterOf(ModelConfig c)
    {
        RouterOptions router = Router(c);
        try
        {
            router.Validate();
        }
        catch (ArgumentException e)
        {
            throw new CheckpointException($"{c.Path}: {e.Message}", e);
        }
        return router;
    }

    /// <summary>A variant of the activation that this family is not computed with would be finite and wrong.</summary>
    /// <exception cref="CheckpointException">The config asks for one.</exception>
    public void RefuseOtherSwiglu(ModelConfig c)
    {
        if (c.Keys.FirstOrDefault(key => key.StartsWith("swiglu_", StringComparison.Ordinal) && !SwigluKeys.Contains(key)) is { } unread)
            throw new CheckpointException($"{c.Path}: {unread} is {c.Find(unread)} but {Name} is supported without it; correct config.json, or use what computes it.");
    }

    /// <summary>SILU, with a clamp where swiglu_limit says so.</summary>
    public static Activation HiddenAct(ModelConfig c)
    {
        string act = c.Text("hidden_act", "hidden_activation") ?? "silu";
        float? limit = c.Limit("swiglu_limit");
        return act switch
        {
            "silu" or "swish" => MoeSharp.Activation.Silu(limit),
            "gelu_pytorch_tanh" or "gelu_tanh" when limit is null => MoeSharp.Activation.GeluTanh(),
            _ => throw new CheckpointException(
                $"{c.Path}: the activation '{act}'{(limit is null ? "" : " with swiglu_limit")} is not supported; known are silu (with or without " +
                "swiglu_limit) and gelu_pytorch_tanh."),
        };
    }

    /// <summary>Softmax, then top-k (Qwen, Mixtral).</summary>
    public static RouterOptions Softmax(ModelConfig c, bool renormalize)
    {
        CheckScoring(c, "softmax");
        return new()
        {
            Experts = Experts(c),
            TopK = TopK(c),
            Scoring = RouterScoring.Softmax,
            Renormalize = renormalize,
            ScalingFactor = c.Float("routed_scaling_factor") ?? 1f,
        };
    }

    private static void CheckScoring(ModelConfig c, string supported)
    {
        if (c.Text("scoring_func") is { } scoring && scoring != supported)
            throw new CheckpointException($"{c.Path}: scoring_func is '{scoring}' but this family is supported with {supported} only.");
    }

    /// <summary>Sigmoid with correction bias and groups (DeepSeek-V3 and its descendants).</summary>
    public static RouterOptions GroupedSigmoid(ModelConfig c)
    {
        CheckScoring(c, "sigmoid");
        if (c.Text("topk_method") is { } method and not "noaux_tc")
            throw new CheckpointException($"{c.Path}: topk_method is '{method}' but this family is supported with noaux_tc only.");
        return new()
        {
            Experts = Experts(c),
            TopK = TopK(c),
            Scoring = RouterScoring.Sigmoid,
            Groups = c.UpTo(ModelConfig.MostExperts, "n_group") ?? 1,
            TopkGroups = c.UpTo(ModelConfig.MostExperts, "topk_group") ?? 1,
            Renormalize = c.Bool("norm_topk_prob") ?? true,
            RenormalizeEpsilon = 1e-20f,
            ScalingFactor = c.Float("routed_scaling_factor") ?? 1f,
        };
    }

    /// <summary>Dense layers first, then every moe_layer_freq-th (a number or a list of 0 and 1).</summary>
    public static bool AfterDense(ModelConfig c, int layer)
    {
        if (c.Find("moe_layer_freq") is { ValueKind: System.Text.Json.JsonValueKind.Array }) return c.PerLayer("moe_layer_freq", layer) is > 0;
        return layer >= (c.Int("first_k_dense_replace") ?? 0) && layer % Math.Max(c.Int("moe_layer_freq") ?? 1, 1) == 0;
    }

    /// <summary>Every decoder_sparse_step-th layer but those of mlp_only_layers (Qwen).</summary>
    public static bool SparseStep(ModelConfig c, int layer) =>
        (layer + 1) % Math.Max(c.Int("decoder_sparse_step") ?? 1, 1) == 0 && !(c.Ints("mlp_only_layers") ?? []).Contains(layer);
}
