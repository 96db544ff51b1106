namespace MoeSharp;

/// <summary>What to read of a layer.</summary>
public sealed record LayerSelection
{
    /// <summary>Everything.</summary>
    public static LayerSelection All { get; } = new();
    /// <summary>First expert and number of experts to read (expert parallel); null reads all. The parts then carry an expert map. Shared experts
    /// belong to the slice that starts at 0, so that the outputs of all slices add up to the layer's.</summary>
    public (int First, int Count)? Experts { get; init; }
    /// <summary>First intermediate row and number of rows to read (tensor parallel); null reads all. Any offset: a slice that starts inside a
    /// 128-block is widened to the block's start with zeros, which changes no sum. Expert down biases and shared experts belong to the slice that
    /// starts at 0.</summary>
    public (int First, int Count)? Intermediate { get; init; }
}

/// <summary>One MoE layer as a checkpoint stores it, checked against its config. Dispose it after the layer built from it.</summary>
public sealed class LayerParts : IDisposable
{
    /// <summary>Index of the decoder layer.</summary>
    public required int Layer { get; init; }
    /// <summary>How the router works.</summary>
    public required RouterOptions Router { get; init; }
    /// <summary>[E, H] router weight, widened to FP32 (exact).</summary>
    public required float[] RouterWeight { get; init; }
    /// <summary>[E], added to logits; null without.</summary>
    public float[]? RouterLogitBias { get; init; }
    /// <summary>[E], added to scores for selection only; null without.</summary>
    public float[]? RouterCorrectionBias { get; init; }
    /// <summary>The routed experts.</summary>
    public required ExpertWeights Experts { get; init; }
    /// <summary>Their options: top-k, activation, global expert count.</summary>
    public required ExpertsOptions ExpertsOptions { get; init; }
    /// <summary>[global experts] when only a slice of the experts was read.</summary>
    public int[]? ExpertMap { get; init; }
    /// <summary>The shared experts as one expert (E = 1); null without.</summary>
    public ExpertWeights? SharedExperts { get; init; }
    /// <summary>Their activation.</summary>
    public Activation SharedActivation { get; init; } = Activation.Silu();
    /// <summary>[H]: sigmoid of its product with the hidden state weighs the shared expert; null weighs it 1.</summary>
    public float[]? SharedGate { get; init; }

    /// <summary>Releases the weights.</summary>
    public void Dispose()
    {
        Experts.Dispose();
        SharedExperts?.Dispose();
    }
}
