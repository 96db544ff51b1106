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

    /// <summary>Checks that the choices fit each other.</summary>
    /// <exception cref="ArgumentException">They do not; the message says which and why.</exception>
    internal void Validate()
    {
        if (Experts < 1) throw new ArgumentException($"The router has {Experts} experts; it needs at least 1.");
        if (TopK < 1) throw new ArgumentException($"Router top-k is {TopK}; it must be at least 1.");
        if (TopK > Experts) throw new ArgumentException($"Router top-k is {TopK} but there are only {Experts} experts.");
        if (!Enum.IsDefined(Scoring)) throw new ArgumentException($"Router scoring {Scoring} is unknown.");
        if (Groups < 1 || Experts % Groups != 0) throw new ArgumentException($"{Experts} router experts cannot form {Groups} equal groups.");
        if (TopkGroups < 1 || TopkGroups > Groups) throw new ArgumentException($"{TopkGroups} eligible router groups of {Groups} are impossible.");
        int eligible = Experts / Groups * TopkGroups;
        if (eligible < TopK)
            throw new ArgumentException(
                $"Router top-k is {TopK} but {TopkGroups} eligible groups of {Experts / Groups} hold only {eligible} experts.");
        if (!float.IsFinite(ScalingFactor)) throw new ArgumentException($"The router scaling factor is {ScalingFactor}; it must be finite.");
        if (!(RenormalizeEpsilon >= 0 && float.IsFinite(RenormalizeEpsilon)))
            throw new ArgumentException($"The router renormalisation epsilon is {RenormalizeEpsilon}; it must be finite and not negative.");
        if (!(RenormalizeMinimum >= 0 && float.IsFinite(RenormalizeMinimum)))
            throw new ArgumentException($"The router renormalisation minimum is {RenormalizeMinimum}; it must be finite and not negative.");
    }
}
