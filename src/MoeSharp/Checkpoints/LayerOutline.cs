namespace MoeSharp;

/// <summary>What the headers of a checkpoint say of one MoE layer. Equal for layers that are made alike.</summary>
internal sealed record LayerOutline
{
    /// <summary>How the router works.</summary>
    public required RouterOptions Router { get; init; }
    /// <summary>The router has a bias for logits.</summary>
    public required bool HasLogitBias { get; init; }
    /// <summary>The router has a bias for selection.</summary>
    public required bool HasCorrectionBias { get; init; }
    /// <summary>The routed experts.</summary>
    public required MatricesOutline Experts { get; init; }
    /// <summary>The shared experts as one; null without.</summary>
    public required MatricesOutline? Shared { get; init; }
    /// <summary>Shared experts are weighed by a gate.</summary>
    public required bool IsSharedGated { get; init; }
    /// <summary>Tensors of the block and of shared experts beside it.</summary>
    public required int Tensors { get; init; }
}

/// <summary>Equal experts of one layer.</summary>
/// <param name="Count">E.</param>
/// <param name="Hidden">H.</param>
/// <param name="Intermediate">I.</param>
internal sealed record MatricesOutline(int Count, int Hidden, int Intermediate)
{
    /// <summary>Of the weights.</summary>
    public required WeightFormat Format { get; init; }
    /// <summary>How their scales are stored.</summary>
    public required ScaleType Scales { get; init; }
    /// <summary>Between the two GEMMs.</summary>
    public required Activation Activation { get; init; }
    /// <summary>They have biases.</summary>
    public required bool HasBiases { get; init; }
    /// <summary>Bytes of weights and scales in the files.</summary>
    public required long Bytes { get; init; }
}
