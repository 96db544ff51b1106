using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>What one layer is made of. Equal for layers that are made alike.</summary>
internal sealed record LayerSummary(LayerOutline Outline)
{
    public RouterOptions Router => Outline.Router;

    public ExpertsSummary Experts { get; } = new(Outline.Experts);

    public ExpertsSummary? Shared { get; } = Outline.Shared is { } shared ? new(shared) : null;

    public bool IsSharedGated => Outline.IsSharedGated;

    public int Tensors => Outline.Tensors;

    /// <summary>Of weights and scales, routed and shared.</summary>
    public long Bytes => Experts.Bytes + (Shared?.Bytes ?? 0);

    /// <summary>The router in one line.</summary>
    public string RouterInWords()
    {
        var words = new List<string>
        {
            $"top-{Router.TopK} of {Router.Experts}",
            Router.Scoring switch { RouterScoring.Softmax => "softmax", RouterScoring.Sigmoid => "sigmoid", _ => "softmax over the top-k" },
        };
        if (Router.Groups > 1) words.Add($"best {Router.TopkGroups} of {Router.Groups} groups");
        if (Outline.HasLogitBias) words.Add("logit bias");
        if (Outline.HasCorrectionBias) words.Add("correction bias");
        if (Router.Renormalize) words.Add("renormalized");
        if (Router.ScalingFactor != 1f) words.Add(FormattableString.Invariant($"scaled by {Router.ScalingFactor}"));
        return string.Join(", ", words);
    }

    public void Write(Utf8JsonWriter json, int layer)
    {
        json.WriteStartObject();
        json.WriteNumber("layer", layer);
        json.WriteNumber("tensors", Tensors);
        json.WriteNumber("bytes", Bytes);
        json.WriteStartObject("router");
        json.WriteString(
            "scoring", Router.Scoring switch { RouterScoring.Softmax => "softmax", RouterScoring.Sigmoid => "sigmoid", _ => "topk-softmax" });
        json.WriteNumber("experts", Router.Experts);
        json.WriteNumber("top_k", Router.TopK);
        json.WriteNumber("groups", Router.Groups);
        json.WriteNumber("topk_groups", Router.TopkGroups);
        json.WriteBoolean("renormalize", Router.Renormalize);
        json.WriteNumber("scaling_factor", Router.ScalingFactor);
        json.WriteBoolean("logit_bias", Outline.HasLogitBias);
        json.WriteBoolean("correction_bias", Outline.HasCorrectionBias);
        json.WriteEndObject();
        json.WriteStartObject("experts");
        Experts.Write(json);
        json.WriteEndObject();
        if (Shared is null)
        {
            json.WriteNull("shared_experts");
        }
        else
        {
            json.WriteStartObject("shared_experts");
            Shared.Write(json);
            json.WriteBoolean("gated", IsSharedGated);
            json.WriteEndObject();
        }
        json.WriteEndObject();
    }
}

/// <summary>Equal experts of one layer: how many, how large, in which format.</summary>
internal sealed record ExpertsSummary(MatricesOutline Outline)
{
    public int Count => Outline.Count;

    public int Hidden => Outline.Hidden;

    public int Intermediate => Outline.Intermediate;

    public WeightFormat Format => Outline.Format;

    public ScaleType ScaleType => Outline.Scales;

    public Activation Activation => Outline.Activation;

    public bool HasBiases => Outline.HasBiases;

    public long Bytes => Outline.Bytes;

    public string FormatInWords() => ScaleType == ScaleType.None ? Names.Of(Format) : $"{Names.Of(Format)}, {ScaleType} scales";

    public void Write(Utf8JsonWriter json)
    {
        json.WriteNumber("count", Count);
        json.WriteNumber("hidden", Hidden);
        json.WriteNumber("intermediate", Intermediate);
        json.WriteString("format", Names.Of(Format));
        if (ScaleType == ScaleType.None) json.WriteNull("scale_type");
        else json.WriteString("scale_type", ScaleType.ToString());
        json.WriteString("activation", Names.Of(Activation));
        json.WriteBoolean("biases", HasBiases);
        json.WriteNumber("bytes", Bytes);
    }
}
