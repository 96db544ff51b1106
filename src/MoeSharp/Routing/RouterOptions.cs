namespace MoeSharp;

/// <summary>How logits become scores.</summary>
public enum RouterScoring : byte
{
    /// <summary>Softmax over all experts, then top-k.</summary>
    Softmax,
    /// <summary>Sigmoid of each logit, then top-k.</summary>
    Sigmoid,
    /// <summary>Top-k of the logits, then softmax over those k (gpt-oss).</summary>
    TopkSoftmax,
}

/// <summary>How a router picks and weighs experts; everything in FP32, ties go to the lowest index.</summary>
public sealed record RouterOptions
{
    /// <summary>E: experts of the whole model.</summary>
    public required int Experts { get; init; }
    /// <summary>K: experts per token.</summary>
    public required int TopK { get; init; }
    /// <summary>How logits become scores.</summary>
    public required RouterScoring Scoring { get; init; }
    /// <summary>Experts form this many equal groups, of which only the best <see cref="TopkGroups"/> are eligible; 1 means no groups.</summary>
    public int Groups { get; init; } = 1;
    /// <summary>Eligible groups; a group's score is the sum of its two best selection scores (score plus correction bias).</summary>
    public int TopkGroups { get; init; } = 1;
    /// <summary>Divides the k weights by their sum.</summary>
    public bool Renormalize { get; init; }
    /// <summary>Added to that sum (1e-20 in the DeepSeek family).</summary>
    public float RenormalizeEpsilon { get; init; }
    /// <summary>Lower bound of that sum (ERNIE's moe_norm_min).</summary>
    public float RenormalizeMinimum { get; init; }
    /// <summary>Multiplies the weights last.</summary>
    public float ScalingFactor { get; init; } = 1f;
}
