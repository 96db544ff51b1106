using Microsoft.Extensions.Logging;

namespace MoeSharp;

/// <summary>Choices of a <see cref="MoeLayer"/>; every one has a default that suits most.</summary>
public sealed record MoeLayerOptions
{
    /// <summary>What computes the experts; null picks the fastest backend that supports the layer.</summary>
    public IExpertsBackend? Backend { get; init; }

    /// <summary>How activations enter the GEMMs, of shared experts too; null takes each weight format's default.</summary>
    public ActivationFormat? Activations { get; init; }

    /// <summary>Upper bound of a call's workspace in bytes; longer calls run in chunks of tokens with bit-identical results. Null: none.</summary>
    public long? MaxWorkspaceBytes { get; init; }

    /// <summary>Which part of the layer to read.</summary>
    public LayerSelection Selection { get; init; } = LayerSelection.All;

    /// <summary>Accepts NaN codes in FP8 weights instead of refusing them at load; they then compute as NaN.</summary>
    public bool AllowNaNWeights { get; init; }

    /// <summary>Hears which backend and kernels were chosen and why, and what is odd; null: nobody.</summary>
    public ILogger? Logger { get; init; }
}
