namespace MoeSharp;

/// <summary>The gated activations. All compute act(gate) * something(up) element by element.</summary>
public enum ActivationKind : byte
{
    /// <summary>silu(g) * u; with a limit L first g = min(g, L), u = clamp(u, -L, L).</summary>
    Silu,
    /// <summary>g = min(g, L), u = clamp(u, -L, L), then g * sigmoid(alpha * g) * (u + beta).</summary>
    SwigluOai,
    /// <summary>min(silu(g), L) * clamp(u, -L, L): the limit comes after silu.</summary>
    SwigluStep,
    /// <summary>gelu_tanh(g) * u.</summary>
    GeluTanh,
}

/// <summary>Where intermediate results of the activation are rounded to BF16.</summary>
public enum RoundingMode : byte
{
    /// <summary>Three roundings: the activated gate, the (shifted) up value, their product. DeepGEMM's path for FP32 scales.</summary>
    Bf16Staged,
    /// <summary>One rounding, of the product; everything before is FP32. The path for packed UE8M0 scales.</summary>
    Fp32Once,
}

/// <summary>The activation between the two GEMMs.</summary>
/// <param name="Kind">The formula.</param>
/// <param name="Limit">L in the formulas; null where nothing is clamped. SWIGLUSTEP always has one.</param>
/// <param name="Alpha">Factor inside the sigmoid (1 for SILU; customarily 1.702 for SWIGLUOAI).</param>
/// <param name="Beta">Added to up (0 for SILU; customarily 1 for SWIGLUOAI).</param>
/// <param name="Interleaved">Whether a packed gate_up tensor alternates gate and up rows (g0, u0, g1, u1, ...). Only loading looks at it:
/// in memory gate and up are always two matrices.</param>
public sealed record Activation(ActivationKind Kind, float? Limit = null, float Alpha = 1f, float Beta = 0f, bool Interleaved = false)
{
    /// <summary>silu(gate) * up, clamped first when a limit is given.</summary>
    public static Activation Silu(float? limit = null) => new(ActivationKind.Silu, limit);

    /// <summary>The activation of gpt-oss (interleaved) and MiniMax-M3 (not interleaved).</summary>
    public static Activation SwigluOai(float alpha = 1.702f, float beta = 1f, float? limit = 7f, bool interleaved = false) =>
        new(ActivationKind.SwigluOai, limit, alpha, beta, interleaved);

    /// <summary>The activation of Step-3.5.</summary>
    public static Activation SwigluStep(float limit = 7f) => new(ActivationKind.SwigluStep, limit);

    /// <summary>gelu_tanh(gate) * up.</summary>
    public static Activation GeluTanh() => new(ActivationKind.GeluTanh);
}
