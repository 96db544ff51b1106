namespace MoeSharp.Tests;

public class ExpertsShapeTests
{
    [Fact]
    public void WeightsDecideWhatOptionsLeaveOpen()
    {
        using ExpertWeights block = Weights(WeightFormat.Block128), power = Weights(WeightFormat.Block128PowerOfTwo);
        using ExpertWeights mx = Weights(WeightFormat.MxFp8), bf16 = Weights(WeightFormat.Bf16);
        Check(block, ActivationFormat.Fp8, RoundingMode.Bf16Staged, 128, false);
        Check(power, ActivationFormat.Fp8, RoundingMode.Bf16Staged, 128, true);
        Check(mx, ActivationFormat.Fp8, RoundingMode.Fp32Once, 32, true);
        Check(bf16, ActivationFormat.Bf16, RoundingMode.Bf16Staged, 0, false);

        static void Check(ExpertWeights weights, ActivationFormat activations, RoundingMode rounding, int group, bool powerOfTwo)
        {
            ExpertsShape shape = ExpertsShape.From(new() { TopK = 2 }, weights);
            Assert.Equal((activations, rounding, group, powerOfTwo), (shape.Activations, shape.Rounding, shape.Group, shape.PowerOfTwoScales));
            Assert.Equal((8, 4, 2, 2, 2), (shape.Hidden, shape.Intermediate, shape.Experts, shape.GlobalExperts, shape.TopK));
        }
    }

    [Fact]
    public void ChoicesWinOverDefaults()
    {
        using ExpertWeights weights = Weights(WeightFormat.Block128);
        var options = new ExpertsOptions { TopK = 16, GlobalExperts = 896, RowAlignment = 128 };
        ExpertsShape shape = ExpertsShape.From(options with { Activations = ActivationFormat.Bf16, Rounding = RoundingMode.Fp32Once }, weights);
        Assert.Equal((16, 896, 2, 128, 0), (shape.TopK, shape.GlobalExperts, shape.Experts, shape.RowAlignment, shape.Group));
        Assert.Equal((ActivationFormat.Bf16, RoundingMode.Fp32Once), (shape.Activations, shape.Rounding));
    }

    public static TheoryData<ExpertsOptions, string> Refusals => new()
    {
        { new() { TopK = 0 }, "TopK is 0; it must be at least 1." },
        { new() { TopK = 3 }, "TopK is 3 but there are 2 experts; lower it." },
        {
            new() { TopK = 1, GlobalExperts = 1 },
            "GlobalExperts is 1 but the weights hold 2 experts; give the model's total, or -1 when all are here."
        },
        {
            new() { TopK = 1, GlobalExperts = -2 },
            "GlobalExperts is -2 but the weights hold 2 experts; give the model's total, or -1 when all are here."
        },
        {
            new() { TopK = 2, RouterWeightOnInput = true },
            "RouterWeightOnInput needs TopK 1 but it is 2: with several experts per token the input cannot carry their weights."
        },
        { new() { TopK = 1, RowAlignment = 0 }, "RowAlignment is 0; it must be at least 1." },
        { new() { TopK = 1, MaxWorkspaceBytes = 0 }, "MaxWorkspaceBytes is 0; it must be positive, or null for no bound." },
        { new() { TopK = 1, Activation = new((ActivationKind)99) }, "Activation 99 is unknown." },
        { new() { TopK = 1, Activation = Activation.Silu(0) }, "The activation limit is 0; it must be positive and finite, or null for none." },
        { new() { TopK = 1, Activation = Activation.Silu(-7) }, "The activation limit is -7; it must be positive and finite, or null for none." },
        {
            new() { TopK = 1, Activation = Activation.Silu(float.PositiveInfinity) },
            "The activation limit is Infinity; it must be positive and finite, or null for none."
        },
        { new() { TopK = 1, Activation = new(ActivationKind.SwigluStep) }, "SWIGLUSTEP needs a limit (7 in published models)." },
        { new() { TopK = 1, Activation = Activation.SwigluOai(alpha: float.NaN) }, "Activation alpha NaN and beta 1 must be finite." },
    };

    [Theory]
    [MemberData(nameof(Refusals))]
    public void ContradictionsAreNamed(ExpertsOptions options, string message)
    {
        using ExpertWeights weights = Weights(WeightFormat.Block128);
        Assert.Equal(message, Assert.Throws<ArgumentException>(() => ExpertsShape.From(options, weights)).Message);
    }

    [Fact]
    public void Fp8ActivationsNeedFp8Weights()
    {
        using ExpertWeights weights = Weights(WeightFormat.Bf16);
        var error = Assert.Throws<ArgumentException>(() => ExpertsShape.From(new() { TopK = 1, Activations = ActivationFormat.Fp8 }, weights));
        Assert.Equal("FP8 activations need FP8 weights, and these are BF16; use BF16 activations.", error.Message);
    }

    private static ExpertWeights Weights(WeightFormat format)
    {
        return new([Matrix(4, 8), Matrix(4, 8)], [Matrix(4, 8), Matrix(4, 8)], [Matrix(8, 4), Matrix(8, 4)]);

        BlockScaledMatrix Matrix(int rows, int columns) => format == WeightFormat.Bf16
            ? BlockScaledMatrix.CreateBf16(rows, columns, new BFloat16[rows * columns])
            : WeightQuantizer.Quantize(format, rows, columns, new float[rows * columns]);
    }
}
