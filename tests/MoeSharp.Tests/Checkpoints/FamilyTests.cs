namespace MoeSharp.Tests;

/// <summary>Layouts of which there is no sample: what is read computes the same bits as what was written, and every tensor is accounted
/// for.</summary>
public class FamilyTests
{
    private const string Fp8 = "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,128]}";
    private const string Qwen = "\"num_hidden_layers\":1,\"num_experts_per_tok\":2,\"hidden_size\":256,\"norm_topk_prob\":true,\"hidden_act\":\"silu\"";
    private static readonly (string, string, string) Long = ("gate_proj", "up_proj", "down_proj"), Short = ("w1", "w3", "w2");

    public static TheoryData<string> Layouts => [.. All.Keys];

    private static readonly Dictionary<string, Func<(TinyCheckpoint, Activation)>> All = new()
    {
        ["MiniMax-M3"] = () =>
        {
            var t = new TinyCheckpoint(4, 256, 96, WeightFormat.MxFp8)
            {
                Config = "{\"model_type\":\"minimax_m3\",\"text_config\":{\"model_type\":\"minimax_m3_text\",\"num_hidden_layers\":1,\"hidden_size\":256,\"intermediate_size\":96,"
                    + "\"num_local_experts\":4,\"num_experts_per_tok\":2,\"routed_scaling_factor\":2.0,\"n_shared_experts\":1,\"hidden_act\":\"swigluoai\",\"moe_layer_freq\":[1]},"
                    + "\"quantization_config\":{\"quant_method\":\"mxfp8\",\"activation_scheme\":\"dynamic\",\"weight_block_size\":[1,32],\"ignored_layers\":[\"lm_head\"]}}",
            };
            const string block = "language_model.model.layers.0.block_sparse_moe.";
            t.AddPerExpert(block + "experts.", Short, "_scale_inv", "U8");
            t.AddShared(block + "shared_experts.", Long, "_scale_inv", "U8");
            t.AddBf16(block + "gate.weight", 4, 256);
            t.AddBf16(block + "e_score_correction_bias", 4);
            return (t, Activation.SwigluOai());
        },
        ["Step-3.5"] = () =>
        {
            var t = new TinyCheckpoint(4, 256, 192, WeightFormat.Block128)
            {
                Config = "{\"model_type\":\"step3p5\",\"num_hidden_layers\":1,\"hidden_size\":256,\"moe_intermediate_size\":192,\"moe_num_experts\":4,\"moe_top_k\":2,"
                    + "\"share_expert_dim\":192,\"moe_router_scaling_factor\":3.0,\"norm_expert_weight\":true,\"moe_layers_enum\":\"0\",\"swiglu_limits\":[7.0]," + Fp8 + "}",
            };
            t.AddStacked("model.layers.0.moe.", Long, "_scale_inv", "F32");
            t.AddShared("model.layers.0.share_expert.", Long, "_scale_inv", "F32");
            t.AddBf16("model.layers.0.moe.gate.weight", 4, 256);
            t.AddBf16("model.layers.0.moe.router_bias", 4);
            return (t, Activation.SwigluStep());
        },
        ["Qwen3.5 FP8"] = () =>
            Qwen35(WeightFormat.Block128, t => t.AddPerExpert("model.language_model.layers.0.mlp.experts.", Long, "_scale_inv", "BF16"), "," + Fp8),
        ["Qwen3.5 BF16 fused"] = () => Qwen35(WeightFormat.Bf16, t => t.AddFused("model.language_model.layers.0.mlp.experts.", "", ""), ""),
        ["Kimi-K2"] = () =>
        {
            var t = new TinyCheckpoint(8, 256, 128, WeightFormat.Block128)
            {
                Config = "{\"model_type\":\"kimi_k2\",\"num_hidden_layers\":2,\"first_k_dense_replace\":0,\"hidden_size\":256,\"moe_intermediate_size\":128,\"n_routed_experts\":8,"
                    + "\"num_experts_per_tok\":2,\"n_group\":1,\"topk_group\":1,\"scoring_func\":\"sigmoid\",\"topk_method\":\"noaux_tc\",\"n_shared_experts\":0,\"routed_scaling_factor\":2.827," + Fp8 + "}",
            };
            t.AddPerExpert("model.layers.0.mlp.experts.", Long, "_scale_inv", "F32");
            t.AddBf16("model.layers.0.mlp.gate.weight", 8, 256);
            t.AddBf16("model.layers.0.mlp.gate.e_score_correction_bias", 8);
            return (t, Activation.Silu());
        },
        ["compressed-tensors, F16 scales"] = () =>
            Qwen3(128, WeightFormat.Block128, t => t.AddPerExpert("model.layers.0.mlp.experts.", Long, "_scale", "F16"),
            "\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\",\"ignore\":[\"re:.*mlp.gate$\"],\"config_groups\":{\"group_0\":{\"weights\":"
            + "{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\",\"block_structure\":[128,128],\"symmetric\":true,\"dynamic\":false}}}}"),
        ["ModelOpt MXFP8"] = () => Qwen3(96, WeightFormat.MxFp8, t => t.AddPerExpert("model.layers.0.mlp.experts.", Long, "_scale", "F8_E8M0"),
            "\"quantization_config\":{\"quant_method\":\"modelopt\",\"quant_algo\":\"MXFP8\",\"group_size\":32,\"exclude_modules\":[\"lm_head\"]}"),
        ["E8M0 scales of 128-blocks"] = () =>
            Qwen3(192, WeightFormat.Block128PowerOfTwo, t => t.AddPerExpert("model.layers.0.mlp.experts.", Long, "_scale_inv", "F8_E8M0"),
            Fp8.Replace("\"fmt\"", "\"scale_fmt\":\"ue8m0\",\"fmt\"")),
        ["fused FP8, I = 192, scale rows per half"] = () =>
            Qwen3(192, WeightFormat.Block128, t => t.AddFused("model.layers.0.mlp.experts.", "_scale_inv", "F32"), Fp8),
        ["gpt-oss"] = () =>
        {
            var t = new TinyCheckpoint(4, 64, 96, WeightFormat.Bf16)
            {
                Config = "{\"model_type\":\"gpt_oss\",\"num_hidden_layers\":1,\"hidden_size\":64,\"intermediate_size\":96,\"num_local_experts\":4,\"num_experts_per_tok\":2}",
            };
            t.AddInterleavedTransposed("model.layers.0.mlp.experts.");
            t.AddBf16("model.layers.0.mlp.router.weight", 4, 64);
            t.AddBf16("model.layers.0.mlp.router.bias", 4);
            return (t, Activation.SwigluOai(interleaved: true));
        },
        ["GLM-5.3-Flash, clamped"] = () =>
        {
            var t = new TinyCheckpoint(4, 256, 128, WeightFormat.Block128)
            {
                Config = "{\"model_type\":\"glm5_next\",\"num_hidden_layers\":1,\"hidden_size\":256,\"moe_intermediate_size\":128,\"n_routed_experts\":4,\"num_experts_per_tok\":2,"
                    + "\"swiglu_limit\":10.0," + Fp8 + "}",
            };
            t.AddPerExpert("model.layers.0.mlp.experts.", Long, "_scale_inv", "F32");
            t.AddBf16("model.layers.0.mlp.gate.weight", 4, 256);
            t.AddBf16("model.layers.0.mlp.gate.e_score_correction_bias", 4);
            return (t, Activation.Silu(10f));
        },
    };

    private static (TinyCheckpoint, Activation) Qwen35(WeightFormat format, Action<TinyCheckpoint> experts, string quantization)
    {
        var t = new TinyCheckpoint(4, 256, 128, format)
        {
            Config = "{\"model_type\":\"qwen3_5_moe\",\"text_config\":{\"model_type\":\"qwen3_5_moe_text\",\"num_experts\":4,\"moe_intermediate_size\":128,"
                + "\"shared_expert_intermediate_size\":128," + Qwen + "}" + quantization + "}",
        };
        experts(t);
        t.AddShared("model.language_model.layers.0.mlp.shared_expert.", Long, "_scale_inv", "BF16");
        t.AddBf16("model.language_model.layers.0.mlp.gate.weight", 4, 256);
        t.AddBf16("model.language_model.layers.0.mlp.shared_expert_gate.weight", 1, 256);
        return (t, Activation.Silu());
    }

    private static (TinyCheckpoint, Activation) Qwen3(int intermediate, WeightFormat format, Action<TinyCheckpoint> experts, string quantization)
    {
        var t = new TinyCheckpoint(4, 256, intermediate, format)
        {
            Config = "{\"model_type\":\"qwen3_moe\",\"num_experts\":4,\"moe_intermediate_size\":" + intermediate + "," + Qwen + "," + quantization + "}",
        };
        experts(t);
        t.AddBf16("model.layers.0.mlp.gate.weight", 4, 256);
        return (t, Activation.Silu());
    }

    [Theory, MemberData(nameof(Layouts))]
    public void ComputesTheBitsOfTheMatricesThatWereWritten(string layout)
    {
        (TinyCheckpoint tiny, Activation activation) = All[layout]();
        using TinyCheckpoint _ = tiny;
        using Checkpoint model = Checkpoint.Open(tiny.Write());
        using MoeLayer layer = MoeLayer.Load(model, 0, new() { Backend = ExpertsBackends.Reference });
        Assert.Equal(activation, layer.Experts.Shape.Activation);
        Assert.Equal(tiny.Format, layer.Experts.Shape.Format);
        using var weights = new ExpertWeights(tiny.Gate, tiny.Up, tiny.Down, tiny.Biases);
        using var direct = new FusedExperts(new() { TopK = 2, Activation = activation }, weights, ExpertsBackends.Reference);
        BFloat16[] hidden = [.. Enumerable.Range(0, 3 * tiny.Hidden).Select(i => (BFloat16)MathF.Sin(i * 0.7f))];
        int[] ids = [0, 1, 3, 2, 1, 1];
        float[] routing = [0.5f, 0.5f, 0.75f, 0.25f, 1f, 0.125f];
        var expected = new BFloat16[hidden.Length];
        var actual = new BFloat16[hidden.Length];
        direct.Forward(hidden, ids, routing, expected);
        layer.Experts.Forward(hidden, ids, routing, actual);
        Assert.Equal(expected, actual);
        Assert.Contains(actual, v => v.ToSingle() != 0 && float.IsFinite(v.ToSingle()));
        layer.Forward(hidden, actual); // router and shared experts too
        Assert.All(actual, v => Assert.True(float.IsFinite(v.ToSingle())));
    }

    /// <summary>Router, biases and shared experts are what was written, to the bit, and none is made up.</summary>
    [Theory, MemberData(nameof(Layouts))]
    public void RouterAndSharedExpertsHoldTheBitsThatWereWritten(string layout)
    {
        (TinyCheckpoint tiny, _) = All[layout]();
        using TinyCheckpoint __ = tiny;
        using Checkpoint model = Checkpoint.Open(tiny.Write());
        using LayerParts parts = model.ReadLayer(0);
        string? Name(params string[] ends) => tiny.Names.SingleOrDefault(n => ends.Any(end => n.EndsWith(end, StringComparison.Ordinal)));
        float[]? Table(string? name) => name is null ? null : tiny.Bf16(name);
        Assert.Equal(Table(Name(".gate.weight", ".router.weight")), parts.RouterWeight);
        Assert.Equal(Table(Name(".router.bias")), parts.RouterLogitBias);
        Assert.Equal(Table(Name("e_score_correction_bias", ".router_bias")), parts.RouterCorrectionBias);
        Assert.Equal(Table(Name(".shared_expert_gate.weight")), parts.SharedGate);
        bool hasShared = tiny.Names.Any(n => n.Contains(".shared_expert.") || n.Contains(".shared_experts.") || n.Contains(".share_expert."));
        Assert.Equal(hasShared, parts.SharedExperts is not null);
        if (parts.SharedExperts is not { } shared) return;
        foreach ((BlockScaledMatrix written, BlockScaledMatrix read) in ((BlockScaledMatrix, BlockScaledMatrix)[])
            [(tiny.Gate[0], shared.Gate[0]), (tiny.Up[0], shared.Up[0]), (tiny.Down[0], shared.Down[0])])
        {
            Assert.Equal((written.Rows, written.Columns, written.ScaleRows, written.ScaleColumns),
                (read.Rows, read.Columns, read.ScaleRows, read.ScaleColumns));
            for (int r = 0; r < written.Rows; r++) Assert.True(written.Row(r).SequenceEqual(read.Row(r)), $"{read.Name}, row {r}");
            for (int r = 0; r < written.ScaleRows; r++)
                for (int c = 0; c < written.ScaleColumns; c++)
                    Assert.True(written.ScaleAt(r, c) == read.ScaleAt(r, c), $"{read.Name}, scale ({r}, {c})");
        }
    }

    [Theory, MemberData(nameof(Layouts))]
    public void NamesATensorThatIsMissingOrTooMuch(string layout)
    {
        (TinyCheckpoint tiny, _) = All[layout]();
        using TinyCheckpoint __ = tiny;
        foreach (string name in tiny.Names.ToArray())
        {
            using Checkpoint model = Checkpoint.Open(tiny.Write(without: name));
            string stem = name.Replace("_scale_inv", "").Replace("_scale", "");
            foreach (Action read in (Action[])[() => model.ReadLayer(0).Dispose(), () => model.Outline(0)])
            {
                string message = Assert.Throws<CheckpointException>(read).Message;
                Assert.True(message.Contains(stem) || message.Contains(stem.Split('.')[^2]), $"without {name}: {message}");
            }
        }
        string block = tiny.Names.First(n => n.Contains("gate.weight") || n.Contains("router.weight"));
        string extra = block[..block.LastIndexOf('.')] + ".surprise";
        tiny.AddBf16(extra, 4);
        using Checkpoint model2 = Checkpoint.Open(tiny.Write());
        Assert.Contains(extra, Assert.Throws<CheckpointException>(() => model2.ReadLayer(0).Dispose()).Message);
    }
}
