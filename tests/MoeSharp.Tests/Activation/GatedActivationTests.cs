namespace MoeSharp.Tests;

public class GatedActivationTests
{
    public static TheoryData<Activation, RoundingMode> Cases()
    {
        var cases = new TheoryData<Activation, RoundingMode>();
        Activation[] activations =
        [
            Activation.Silu(), Activation.Silu(10), Activation.Silu(7.03f), Activation.SwigluOai(), Activation.SwigluOai(limit: null),
            Activation.SwigluOai(1, 0, 5), Activation.SwigluStep(), Activation.SwigluStep(16), Activation.GeluTanh(),
        ];
        foreach (Activation activation in activations)
            foreach (RoundingMode rounding in Enum.GetValues<RoundingMode>())
                cases.Add(activation, rounding);
        return cases;
    }

    /// <summary>Spec 11.4: at most one BF16 unit from float64 with the same rounding points, and nearly always equal.</summary>
    [Theory, MemberData(nameof(Cases))]
    public void FollowsFloat64(Activation activation, RoundingMode rounding)
    {
        var random = new Random(3);
        const int count = 200_000;
        int different = 0;
        for (int n = 0; n < count; n++)
        {
            float[] pair = RandomLayer.Normal(random, 2, n % 2 == 0 ? 1.5f : 6f);
            BFloat16 gate = BFloat16.FromSingle(pair[0]), up = BFloat16.FromSingle(pair[1]);
            BFloat16 actual = GatedActivation.Apply(activation, rounding, gate, up);
            var expected = BFloat16.FromSingle((float)Oracle.Activate(activation, rounding, gate.ToSingle(), up.ToSingle()));
            if (actual.Equals(expected) || MathF.Max(MathF.Abs(actual), MathF.Abs(expected)) < 1e-36f) continue; // exp overflows in FP32
            different++;
            int apart = Math.Abs(actual.Bits - expected.Bits);
            Assert.True(apart <= 1, $"{activation} {rounding} gate {gate} up {up}: {actual} instead of {expected}");
        }
        Assert.True(different <= count / 1000, $"{activation} {rounding}: {different} of {count} differ in their last bit");
    }

    [Fact]
    public void TheModesDifferWhereTheyShould()
    {
        var random = new Random(4);
        int staged = 0;
        for (int n = 0; n < 1000; n++)
        {
            BFloat16[] pair = RandomLayer.Bf16(RandomLayer.Normal(random, 2, 2));
            BFloat16 once = GatedActivation.Apply(Activation.Silu(), RoundingMode.Fp32Once, pair[0], pair[1]);
            if (!once.Equals(GatedActivation.Apply(Activation.Silu(), RoundingMode.Bf16Staged, pair[0], pair[1]))) staged++;
            BFloat16 step = GatedActivation.Apply(Activation.SwigluStep(), RoundingMode.Fp32Once, pair[0], pair[1]);
            Assert.Equal(step, GatedActivation.Apply(Activation.SwigluStep(), RoundingMode.Bf16Staged, pair[0], pair[1]));
        }
        Assert.InRange(staged, 50, 950);
    }

    [Theory]
    [InlineData(float.NegativeInfinity, 1f, float.NaN)]
    [InlineData(float.NaN, 1f, float.NaN)]
    [InlineData(1f, float.NaN, float.NaN)]
    [InlineData(-300f, 1f, -0f)]
    [InlineData(0f, 5f, 0f)]
    [InlineData(float.PositiveInfinity, 1f, float.PositiveInfinity)]
    public void SiluAtTheEdges(float gate, float up, float expected)
    {
        foreach (RoundingMode rounding in Enum.GetValues<RoundingMode>())
        {
            BFloat16 actual = GatedActivation.Apply(Activation.Silu(), rounding, BFloat16.FromSingle(gate), BFloat16.FromSingle(up));
            Assert.True(float.IsNaN(expected) ? float.IsNaN(actual.ToSingle()) : actual.Equals(BFloat16.FromSingle(expected)), $"{rounding} gate {gate} up {up}: {actual}");
        }
    }

    [Fact]
    public void TheGateIsLimitedFromAboveOnlyAndUpFromBothSides()
    {
        Assert.Equal(Value(Activation.Silu(4), 4, 4), Value(Activation.Silu(4), 9, 9));
        Assert.Equal(Value(Activation.Silu(4), -9, -4), Value(Activation.Silu(4), -9, -9));
        Assert.NotEqual(Value(Activation.Silu(4), -4, 1), Value(Activation.Silu(4), -6, 1));
        Assert.Equal(2 * 2, Value(Activation.SwigluStep(2), 20, 20)); // after silu: silu(2) alone would be 1.76
        Assert.Equal(3.515625f, Value(Activation.Silu(2), 20, 20));

        static float Value(Activation activation, float gate, float up) =>
            GatedActivation.Apply(activation, RoundingMode.Fp32Once, BFloat16.FromSingle(gate), BFloat16.FromSingle(up)).ToSingle();
    }
}
