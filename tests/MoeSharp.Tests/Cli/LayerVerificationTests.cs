using System.Buffers;
using System.Text.Json;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

public class LayerVerificationTests
{
    private const int Tokens = 5;

    private static LayerCheck Check(LayerParts parts, TinyLayer tiny, int? rows)
    {
        using var layer = new MoeLayer(parts);
        using var reference = new MoeLayer(tiny.Parts(), new MoeLayerOptions { Backend = ExpertsBackends.Reference });
        int steps = 0;
        LayerCheck check = new LayerVerification(layer, reference, tiny.HiddenStates(Tokens), rows)
            .Run(_ => Interlocked.Increment(ref steps), TestContext.Current.CancellationToken);
        Assert.Equal(tiny.Experts + 1, steps);
        return check;
    }

    [Theory]
    [InlineData(null)]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(99)]
    public void ALayerAgreesWithItself(int? rows)
    {
        var tiny = new TinyLayer();
        LayerCheck check = Check(tiny.Parts(), tiny, rows);
        Assert.True(check.Passed, JsonOf(check));
        Assert.Equal(tiny.Experts, check.Experts.Count);
    }

    [Fact]
    public unsafe void OneFlippedBitInOneExpertIsFoundAndNamed()
    {
        var tiny = new TinyLayer();
        LayerParts damaged = tiny.Parts();
        byte* codes = damaged.Experts.Down[4].Storage.Values;
        while ((*codes & 0x78) is < 0x20 or >= 0x40) codes++;
        *codes |= 0x40; // the top bit of the exponent: 256 times the value
        LayerCheck check = Check(damaged, tiny, rows: null);
        Assert.False(check.Passed);
        Assert.Equal([4], check.Experts.Where(expert => !expert.Passed).Select(expert => expert.Expert));
        Assert.Equal(4, check.Worst.Expert);
    }

    [Fact]
    public void ARouterThatPicksOtherExpertsFails()
    {
        var tiny = new TinyLayer();
        LayerParts other = tiny.Parts();
        other.RouterWeight.AsSpan().Reverse();
        LayerCheck check = Check(other, tiny, rows: null);
        Assert.False(check.IdsEqual);
        Assert.False(check.Passed);
        Assert.All(check.Experts, expert => Assert.True(expert.Passed));
    }

    [Theory]
    [InlineData(WeightFormat.Block128, ActivationFormat.Fp8, 5e-4)]
    [InlineData(WeightFormat.Block128, ActivationFormat.Bf16, 2e-5)]
    [InlineData(WeightFormat.MxFp8, ActivationFormat.Fp8, 2e-5)]
    [InlineData(WeightFormat.Bf16, ActivationFormat.Bf16, 2e-5)]
    public void TolerancesFollowTheFormat(WeightFormat format, ActivationFormat activations, double tolerance)
    {
        using var layer = new MoeLayer(new TinyLayer { Format = format }.Parts(), new MoeLayerOptions { Activations = activations });
        Assert.Equal(tolerance, Verdict.Tolerance(layer.Experts.Shape));
    }

    [Fact]
    public void NothingIsWithinToleranceOfNaN() => Assert.False(Accuracy.Of([float.NaN, 1], [1, 1]).IsWithin(double.PositiveInfinity));

    private static string JsonOf(LayerCheck check)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer)) check.Write(json);
        return System.Text.Encoding.UTF8.GetString(buffer.WrittenSpan);
    }
}
