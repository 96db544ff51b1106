using System.Numerics;
using System.Runtime.CompilerServices;

namespace MoeSharp;

/// <summary>Step 5's formulas in vectors; <see cref="GatedActivation"/> defines them. Unmanaged, so that a job can carry it.</summary>
internal readonly struct GatedActivationVector(Activation activation, RoundingMode rounding)
{
    private readonly ActivationKind _kind = activation.Kind;
    private readonly bool _staged = rounding == RoundingMode.Bf16Staged, _clamps = activation.Limit is not null;
    private readonly float _limit = activation.Limit ?? 0, _alpha = activation.Alpha, _beta = activation.Beta;

    /// <summary>act(gate) * up, a BF16 value, from sums that are rounded to BF16 first.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector<float> Apply(Vector<float> gateSum, Vector<float> upSum)
    {
        Vector<float> g = Round(gateSum), u = Round(upSum);
        if (_kind == ActivationKind.SwigluStep) return Round(Min(g * Sigmoid(g)) * Clamp(u));
        if (_clamps)
        {
            g = Min(g);
            u = Clamp(u);
        }
        if (!_staged) return Round((u + new Vector<float>(_beta)) * Gate(g));
        return Round(Round(Gate(Round(g))) * Round(Round(u) + new Vector<float>(_beta)));
    }

    private Vector<float> Gate(Vector<float> g)
    {
        if (_kind != ActivationKind.GeluTanh) return g / (Vector<float>.One + Vector.Exp(-g * _alpha));
        Vector<float> inner = 0.7978845608f * (g + 0.044715f * g * g * g);
        return g / (Vector<float>.One + Vector.Exp(-2f * inner)); // (1 + tanh z) / 2 is the logistic function of 2z, and loses no digits
    }

    private static Vector<float> Sigmoid(Vector<float> g) => Vector<float>.One / (Vector<float>.One + Vector.Exp(-g));

    /// <summary>NaN stays NaN.</summary>
    private Vector<float> Min(Vector<float> value)
    {
        var limit = new Vector<float>(_limit);
        return Vector.ConditionalSelect(Vector.GreaterThan(value, limit), limit, value);
    }

    private Vector<float> Clamp(Vector<float> value)
    {
        var least = new Vector<float>(-_limit);
        value = Min(value);
        return Vector.ConditionalSelect(Vector.LessThan(value, least), least, value);
    }

    /// <summary>To BF16 and back.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector<float> Round(Vector<float> value) => BFloat16Codec.Decode(BFloat16Codec.Encode(value));
}
