namespace MoeSharp;

/// <summary>Step 5's formulas for one element, in FP32 with the rounding points of the two modes. The only scalar definition; every backend is checked against it.</summary>
internal static class GatedActivation
{
    /// <summary>act(gate) * up as BF16, from the BF16 results of GateUp.</summary>
    public static BFloat16 Apply(Activation activation, RoundingMode rounding, BFloat16 gate, BFloat16 up)
    {
        float g = gate.ToSingle(), u = up.ToSingle();
        if (activation.Kind == ActivationKind.SwigluStep)
        {
            float limit = activation.Limit!.Value;
            return BFloat16.FromSingle(Min(Sigmoid(g) * g, limit) * Clamp(u, limit));
        }
        if (activation.Limit is { } l)
        {
            g = Min(g, l);
            u = Clamp(u, l);
        }
        return rounding == RoundingMode.Bf16Staged ? Staged(activation, g, u) : Once(activation, g, u);
    }

    /// <summary>BF16 after clamping, after the activated gate, after the shifted up value, after the product.</summary>
    private static BFloat16 Staged(Activation activation, float g, float u)
    {
        float clampedGate = Round(g), clampedUp = Round(u); // the limit itself may not be a BF16 number
        float activated = Round(Gate(activation, clampedGate)), shifted = Round(clampedUp + activation.Beta);
        return BFloat16.FromSingle(activated * shifted);
    }

    private static BFloat16 Once(Activation activation, float g, float u) => BFloat16.FromSingle((u + activation.Beta) * Gate(activation, g));

    private static float Gate(Activation activation, float g) =>
        activation.Kind == ActivationKind.GeluTanh ? GeluTanh(g) : g / (1f + MathF.Exp(-g * activation.Alpha));

    /// <summary>(1 + tanh z) / 2 is the logistic function of 2z, which loses no digits where tanh is near -1.</summary>
    private static float GeluTanh(float g) => g / (1f + MathF.Exp(-2f * (0.7978845608f * (g + 0.044715f * g * g * g))));

    private static float Sigmoid(float g) => 1f / (1f + MathF.Exp(-g));

    /// <summary>NaN stays NaN.</summary>
    private static float Min(float value, float limit) => value > limit ? limit : value;

    private static float Clamp(float value, float limit) => value > limit ? limit : value < -limit ? -limit : value;

    private static float Round(float value) => BFloat16.FromSingle(value).ToSingle();
}
