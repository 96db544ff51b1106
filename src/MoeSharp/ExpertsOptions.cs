using Microsoft.Extensions.Logging;

namespace MoeSharp;

/// <summary>What <see cref="FusedExperts"/> needs to know beyond the weights. Validated once, when the experts are constructed.</summary>
public sealed record ExpertsOptions
{
    /// <summary>K: experts per token. Required.</summary>
    public required int TopK { get; init; }

    /// <summary>The gated activation between the two GEMMs.</summary>
    public Activation Activation { get; init; } = Activation.Silu();

    /// <summary>How activations enter the GEMMs; null takes the weights' default (FP8 for FP8 weights, BF16 for BF16 weights).</summary>
    public ActivationFormat? Activations { get; init; }

    /// <summary>Where the activation rounds; null takes the weights' default (once for MXFP8, staged otherwise).</summary>
    public RoundingMode? Rounding { get; init; }

    /// <summary>Experts in the whole model, of which the weights may hold only some; -1 means that all are here.</summary>
    public int GlobalExperts { get; init; } = -1;

    /// <summary>Multiplies hidden states by the router weight (in BF16, before quantization) instead of the experts' outputs; needs TopK 1.</summary>
    public bool RouterWeightOnInput { get; init; }

    /// <summary>Each expert's rows start at a multiple of this in permuted buffers. Changes no result; a backend may use less memory for 1.</summary>
    public int RowAlignment { get; init; } = 1;

    /// <summary>Upper bound of the workspace in bytes; longer calls run in chunks of tokens with bit-identical results. Null: no bound.</summary>
    public long? MaxWorkspaceBytes { get; init; }

    /// <summary>Accepts NaN codes (0x7F, 0xFF) in FP8 weights instead of refusing them at load; they then compute as NaN.</summary>
    public bool AllowNaNWeights { get; init; }

    /// <summary>Hears which backend and kernels were chosen and why, and what is odd; null: nobody.</summary>
    public ILogger? Logger { get; init; }
}

/// <summary>Options and weights reconciled: every size and choice that a backend needs, all checked. H, I, E, K in one place.</summary>
public sealed record ExpertsShape
{
    private ExpertsShape() { }

    /// <summary>H.</summary>
    public required int Hidden { get; init; }
    /// <summary>I, per rank.</summary>
    public required int Intermediate { get; init; }
    /// <summary>E, held here.</summary>
    public required int Experts { get; init; }
    /// <summary>Experts of the whole model.</summary>
    public required int GlobalExperts { get; init; }
    /// <summary>K.</summary>
    public required int TopK { get; init; }
    /// <summary>Weight format.</summary>
    public required WeightFormat Format { get; init; }
    /// <summary>Activation format.</summary>
    public required ActivationFormat Activations { get; init; }
    /// <summary>Gated activation.</summary>
    public required Activation Activation { get; init; }
    /// <summary>Rounding mode of the activation.</summary>
    public required RoundingMode Rounding { get; init; }
    /// <summary>Router weight multiplies the input.</summary>
    public required bool RouterWeightOnInput { get; init; }
    /// <summary>Rows of an expert start at a multiple of this.</summary>
    public required int RowAlignment { get; init; }

    /// <summary>Values of a row that share one activation scale: 128, 32, or 0 for BF16 activations.</summary>
    public int Group => Activations == ActivationFormat.Fp8 ? Format.BlockColumns() : 0;

    /// <summary>Activation scales are powers of two.</summary>
    public bool PowerOfTwoScales => Format is WeightFormat.Block128PowerOfTwo or WeightFormat.MxFp8;

    /// <summary>Scale blocks begin before row 0 of gate or up (packed w13 whose I is no multiple of 128), so 128 rows have two scales.</summary>
    internal bool HasStraddlingScales { get; private init; }

    /// <summary>Reconciles and checks.</summary>
    /// <exception cref="ArgumentException">A value is out of range or two contradict; the message says which and why.</exception>
    public static ExpertsShape From(ExpertsOptions options, ExpertWeights weights)
    {
        int global = options.GlobalExperts == -1 ? weights.Count : options.GlobalExperts;
        if (options.GlobalExperts != -1 && options.GlobalExperts < weights.Count)
            throw new ArgumentException(
                $"GlobalExperts is {options.GlobalExperts} but the weights hold {weights.Count} experts; give the model's total, or -1 when all " +
                "are here.");
        if (options.TopK < 1) throw new ArgumentException($"TopK is {options.TopK}; it must be at least 1.");
        if (options.TopK > global) throw new ArgumentException($"TopK is {options.TopK} but there are {global} experts; lower it.");
        if (options.RouterWeightOnInput && options.TopK != 1)
            throw new ArgumentException(
                $"RouterWeightOnInput needs TopK 1 but it is {options.TopK}: with several experts per token the input cannot carry their weights.");
        if (options.RowAlignment < 1) throw new ArgumentException($"RowAlignment is {options.RowAlignment}; it must be at least 1.");
        if (options.MaxWorkspaceBytes is <= 0)
            throw new ArgumentException($"MaxWorkspaceBytes is {options.MaxWorkspaceBytes}; it must be positive, or null for no bound.");
        if (!Enum.IsDefined(options.Activation.Kind)) throw new ArgumentException($"Activation {options.Activation.Kind} is unknown.");
        if (options.Activation.Limit is { } limit && !(limit > 0 && float.IsFinite(limit)))
            throw new ArgumentException($"The activation limit is {limit}; it must be positive and finite, or null for none.");
        if (options.Activation is { Kind: ActivationKind.SwigluStep, Limit: null })
            throw new ArgumentException("SWIGLUSTEP needs a limit (7 in published models).");
        if (options.Activation is { Kind: ActivationKind.GeluTanh, Limit: not null })
            throw new ArgumentException("GELU-tanh takes no limit; give null.");
        if (options.Activation.Kind != ActivationKind.SwigluOai && options.Activation is not { Alpha: 1f, Beta: 0f })
            throw new ArgumentException(
                $"Only SWIGLUOAI has alpha and beta; {options.Activation.Kind} needs 1 and 0, not {options.Activation.Alpha} and " +
                    $"{options.Activation.Beta}.");
        if (!float.IsFinite(options.Activation.Alpha) || !float.IsFinite(options.Activation.Beta))
            throw new ArgumentException($"Activation alpha {options.Activation.Alpha} and beta {options.Activation.Beta} must be finite.");
        ActivationFormat activations = options.Activations ?? weights.Format.DefaultActivations();
        if (activations == ActivationFormat.Fp8 && weights.Format == WeightFormat.Bf16)
            throw new ArgumentException("FP8 activations need FP8 weights, and these are BF16; use BF16 activations.");
        return new()
        {
            Hidden = weights.HiddenSize,
            Intermediate = weights.IntermediateSize,
            Experts = weights.Count,
            GlobalExperts = global,
            HasStraddlingScales = weights.HasStraddlingScales,
            TopK = options.TopK,
            Format = weights.Format,
            Activations = activations,
            Activation = options.Activation,
            Rounding = options.Rounding ?? (weights.Format == WeightFormat.MxFp8 ? RoundingMode.Fp32Once : RoundingMode.Bf16Staged),
            RouterWeightOnInput = options.RouterWeightOnInput,
            RowAlignment = options.RowAlignment,
        };
    }
}
