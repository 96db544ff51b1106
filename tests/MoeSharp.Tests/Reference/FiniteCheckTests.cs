namespace MoeSharp.Tests;

/// <summary>A value that is not finite, planted anywhere, is found at the step, expert, row and block where it first shows.</summary>
public sealed class FiniteCheckTests
{
    private const int Experts = 3, Hidden = 256, Intermediate = 160, Tokens = 6, TopK = 2;
    // Token t goes to experts t % 3 and (t + 1) % 3, so expert 1 has tokens 0, 1, 3, 4.
    private static readonly int[] s_ids = [.. Enumerable.Range(0, Tokens).SelectMany(t => new[] { t % Experts, (t + 1) % Experts })];

    public static TheoryData<WeightFormat, ActivationFormat> Formats => new()
    {
        { WeightFormat.Block128, ActivationFormat.Fp8 },
        { WeightFormat.Block128, ActivationFormat.Bf16 },
        { WeightFormat.MxFp8, ActivationFormat.Fp8 },
        { WeightFormat.MxFp8, ActivationFormat.Bf16 },
        { WeightFormat.Bf16, ActivationFormat.Bf16 },
    };

    [Theory]
    [MemberData(nameof(Formats))]
    public void FiniteLayersHaveNone(WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights weights = Weights(format);
        Assert.Null(Find(weights, activations, HiddenStates()));
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void NaNInAWeightIsBlamed(WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights gate = Weights(format);
        Plant(gate.Gate[1], 150, 200);
        NonFinite found = Find(gate, activations, HiddenStates())!.Value;
        Assert.Equal((Step.GateUp, "gate", 1, 0, 0, 150), (found.Step, found.What, found.Expert, found.Row, found.Token, found.Column));
        Assert.Equal(150 / (activations == ActivationFormat.Fp8 && format == WeightFormat.MxFp8 ? 32 : 128), found.Block);
        Assert.True(float.IsNaN(found.Value));
        Assert.Contains("gate[1] holds NaN at row 150, column 200", found.Cause);

        using ExpertWeights up = Weights(format);
        Plant(up.Up[2], 3, 0);
        found = Find(up, activations, HiddenStates())!.Value;
        Assert.Equal((Step.GateUp, "up", 2, 0, 1, 3), (found.Step, found.What, found.Expert, found.Row, found.Token, found.Column));

        using ExpertWeights down = Weights(format);
        Plant(down.Down[0], 255, 159);
        found = Find(down, activations, HiddenStates())!.Value;
        Assert.Equal((Step.Down, "down", 0, 0, 0, 255), (found.Step, found.What, found.Expert, found.Row, found.Token, found.Column));
        Assert.Contains("down[0] holds NaN at row 255, column 159", found.Cause);
    }

    [Fact]
    public unsafe void InfiniteScaleIsNamedWithItsBlock()
    {
        using ExpertWeights weights = Weights(WeightFormat.Block128);
        ((float*)weights.Up[1].Storage.Scales)[3] = float.PositiveInfinity; // block (1, 1) of [2, 2]
        NonFinite found = Find(weights, ActivationFormat.Fp8, HiddenStates())!.Value;
        Assert.Equal((Step.GateUp, "up", 1, 0, 128), (found.Step, found.What, found.Expert, found.Row, found.Column));
        Assert.Contains("of block (1, 1)", found.Cause);
    }

    [Theory]
    [InlineData(WeightFormat.Block128, ActivationFormat.Fp8, "hidden_scales", 1, -1)]
    [InlineData(WeightFormat.MxFp8, ActivationFormat.Fp8, "hidden_scales", 6, -1)]
    [InlineData(WeightFormat.Bf16, ActivationFormat.Bf16, "hidden", 1, 200)]
    public void InfiniteInputIsSeenByQuantize(WeightFormat format, ActivationFormat activations, string what, int block, int column)
    {
        using ExpertWeights weights = Weights(format);
        BFloat16[] hidden = HiddenStates();
        hidden[4 * Hidden + 200] = BFloat16.FromSingle(float.NegativeInfinity);
        NonFinite found = Find(weights, activations, hidden)!.Value;
        Assert.Equal((Step.Quantize, what, -1, 4, 4, block, column), (found.Step, found.What, found.Expert, found.Row, found.Token, found.Block, found.Column));
    }

    [Theory]
    [InlineData(1e18f, Step.Activate, "activated", "product")]
    [InlineData(1e38f, Step.GateUp, "gate", "sum leaves the range of BF16")]
    public void OverflowOfFiniteWeightsIsCalledThat(float weight, Step step, string what, string cause)
    {
        BlockScaledMatrix Filled(int rows, int columns) => BlockScaledMatrix.CreateBf16(rows, columns, [.. Enumerable.Repeat((BFloat16)weight, rows * columns)]);
        using var weights = new ExpertWeights([Filled(Intermediate, Hidden)], [Filled(Intermediate, Hidden)], [Filled(Hidden, Intermediate)]);
        var check = new FiniteCheck();
        using var experts = new FusedExperts(new ExpertsOptions { TopK = 1 }, weights, new ReferenceBackend(check));
        BFloat16[] ones = [.. Enumerable.Repeat((BFloat16)1f, Hidden)];
        experts.Forward(ones, [0], [1f], new BFloat16[Hidden]);
        NonFinite found = check.First!.Value;
        Assert.Equal((step, what, 0, 0, 0, 0), (found.Step, found.What, found.Expert, found.Row, found.Block, found.Column));
        Assert.Contains(cause, found.Cause);
    }

    [Fact]
    public void RouterWeightShowsInCombine()
    {
        using ExpertWeights weights = Weights(WeightFormat.Block128);
        float[] topk = [.. Enumerable.Repeat(0.5f, s_ids.Length)];
        topk[2 * TopK + 1] = float.NaN;
        NonFinite found = Find(weights, ActivationFormat.Fp8, HiddenStates(), topk)!.Value;
        Assert.Equal((Step.Combine, "output", -1, 2, 2, 0, 0), (found.Step, found.What, found.Expert, found.Row, found.Token, found.Block, found.Column));
    }

    private static ExpertWeights Weights(WeightFormat format) => RandomLayer.Weights(format, Experts, Hidden, Intermediate, seed: 5);

    private static BFloat16[] HiddenStates() => RandomLayer.Hidden(Tokens, Hidden, seed: 6);

    private static NonFinite? Find(ExpertWeights weights, ActivationFormat activations, BFloat16[] hidden, float[]? topk = null)
    {
        var check = new FiniteCheck();
        var options = new ExpertsOptions { TopK = TopK, Activations = activations, AllowNaNWeights = true };
        using var experts = new FusedExperts(options, weights, new ReferenceBackend(check));
        experts.Forward(hidden, s_ids, topk ?? [.. Enumerable.Repeat(0.5f, s_ids.Length)], new BFloat16[hidden.Length]);
        return check.First;
    }

    private static unsafe void Plant(BlockScaledMatrix matrix, int row, int column)
    {
        byte* at = matrix.Storage.Values + row * matrix.Storage.RowBytes;
        if (matrix.Format == WeightFormat.Bf16) ((ushort*)at)[column] = 0x7FC0;
        else at[column] = 0x7F;
    }
}
