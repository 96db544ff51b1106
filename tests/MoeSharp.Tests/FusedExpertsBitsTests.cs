namespace MoeSharp.Tests;

/// <summary>What must not change a single bit of a row.</summary>
public class FusedExpertsBitsTests
{
    private const int T = 23, H = 192, I = 96, E = 6, K = 3;
    private static readonly BFloat16[] Hidden = RandomLayer.Hidden(T, H, 1);
    private static readonly int[] Ids = RandomLayer.Ids(T, K, E, 2, dropped: 0.1);
    private static readonly float[] Weights = RandomLayer.TopkWeights(T, K, 3);

    public static TheoryData<string, WeightFormat, ActivationFormat> Schemes()
    {
        var schemes = new TheoryData<string, WeightFormat, ActivationFormat>();
        foreach (IExpertsBackend backend in ExpertsBackends.All)
            foreach (WeightFormat format in Enum.GetValues<WeightFormat>())
                foreach (ActivationFormat activations in Enum.GetValues<ActivationFormat>())
                    if (backend.SupportsFormat(format, activations).IsSupported)
                        schemes.Add(backend.Name, format, activations);
        return schemes;
    }

    [Theory, MemberData(nameof(Schemes))]
    public void ARowIsTheSameAloneAndInAnyBatch(string backend, WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights weights = RandomLayer.Weights(format, E, H, I, 4);
        using FusedExperts experts = Build(weights, backend, activations);
        float[] expected = Run(experts, 0, T);
        AssertSame(expected, Run(experts, 0, T), 0, "second run");
        foreach ((int first, int count) in new[] { (0, 2), (3, 5), (7, 16), (2, 21) }) AssertSame(expected, Run(experts, first, count), first, $"{count} rows from {first}");
        for (int t = 0; t < T; t++) AssertSame(expected, Run(experts, t, 1), t, $"row {t} alone");
    }

    [Theory, MemberData(nameof(Schemes))]
    public void ChunksAlignmentAndStaleMemoryChangeNothing(string backend, WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights weights = RandomLayer.Weights(format, E, H, I, 4);
        using FusedExperts experts = Build(weights, backend, activations);
        float[] expected = Run(experts, 0, T);
        foreach (int alignment in new[] { 4, 32, 128 })
        {
            using FusedExperts aligned = Build(weights, backend, activations, alignment: alignment);
            AssertSame(expected, Run(aligned, 0, T), 0, $"alignment {alignment}");
        }
        foreach (int chunk in new[] { 1, 2, 5, 22 })
        {
            long budget = experts.PlanWorkspace(chunk).Bytes;
            using FusedExperts budgeted = Build(weights, backend, activations, budget: budget);
            Assert.True(budgeted.WorkspaceBytes(T) <= budget, $"{budgeted.WorkspaceBytes(T)} bytes for {T} tokens exceed the budget {budget}");
            AssertSame(expected, Run(budgeted, 0, T), 0, $"chunks of {chunk}");
            using var small = new Workspace(budget);
            AssertSame(expected, Run(experts, 0, T, small), 0, $"workspace for {chunk}");
        }
        using var workspace = new Workspace(experts.WorkspaceBytes(T));
        foreach (int count in new[] { T, 1, 7, T })
        {
            workspace.Poison();
            AssertSame(expected, Run(experts, 0, count, workspace), 0, $"{count} rows in a workspace full of NaN");
        }
    }

    [Theory, MemberData(nameof(Schemes))]
    public void InputFormsAndOutputsAgree(string backend, WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights weights = RandomLayer.Weights(format, E, H, I, 4);
        using FusedExperts experts = Build(weights, backend, activations);
        float[] expected = Run(experts, 0, T);
        var rounded = new BFloat16[T * H];
        experts.Forward(Hidden, Ids, Weights, rounded);
        for (int n = 0; n < rounded.Length; n++) Assert.True(rounded[n].Equals(BFloat16.FromSingle(expected[n])), $"[{n}]: {rounded[n]} is not {expected[n]} rounded");

        var output = new float[T * H];
        int[] counts = [.. Enumerable.Range(0, E).Select(e => Ids.Count(id => id == e))];
        experts.Forward(new ExpertsInput { Hidden = Hidden, TopkIds64 = [.. Ids.Select(id => (long)id)], TopkWeights = Weights, ExpertCounts = counts }, output);
        AssertSame(expected, output, 0, "64-bit ids and counts");
        int[] map = [.. Enumerable.Range(0, E)];
        experts.Forward(new ExpertsInput { Hidden = Hidden, TopkIds = Ids, TopkWeights = Weights, ExpertMap = map }, output);
        AssertSame(expected, output, 0, "a map that changes nothing");
        if (activations == ActivationFormat.Bf16) return;

        var codes = new Float8E4M3[T * H];
        int groups = Formats.Blocks(H, experts.Shape.Group);
        var scales = new float[T * groups];
        var mx = new ScaleE8M0[T * groups];
        for (int t = 0; t < T; t++)
        {
            if (format == WeightFormat.MxFp8) ActivationQuantizer.QuantizeRowMxScalar(Hidden.AsSpan(t * H, H), codes.AsSpan(t * H, H), mx.AsSpan(t * groups, groups));
            else ActivationQuantizer.QuantizeRowScalar(Hidden.AsSpan(t * H, H), QuantizationRule.Input, experts.Shape.PowerOfTwoScales, 128, codes.AsSpan(t * H, H), scales.AsSpan(t * groups, groups));
        }
        var input = format == WeightFormat.MxFp8
            ? new ExpertsInput { QuantizedHidden = codes, HiddenScalesE8M0 = mx, TopkIds = Ids, TopkWeights = Weights }
            : new ExpertsInput { QuantizedHidden = codes, HiddenScales = scales, TopkIds = Ids, TopkWeights = Weights };
        experts.Forward(input, output);
        AssertSame(expected, output, 0, "quantized by the caller");
    }

    [Theory, MemberData(nameof(Schemes))]
    public void ARowIsTheSameOnWhicheverRankItsExpertIs(string backend, WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights all = RandomLayer.Weights(format, E, H, I, 4);
        using FusedExperts whole = Build(all, backend, activations, topK: 1);
        using ExpertWeights upper = Upper(all);
        using FusedExperts rank = Build(upper, backend, activations, topK: 1, global: E);
        int[] ids = [.. Enumerable.Range(0, T).Select(t => t % E)], map = [-1, -1, 0, 1, 2, 3];
        float[] ones = [.. Enumerable.Repeat(1f, T)], expected = new float[T * H], actual = new float[T * H];
        whole.Forward(new ExpertsInput { Hidden = Hidden, TopkIds = ids, TopkWeights = ones }, expected);
        rank.Forward(new ExpertsInput { Hidden = Hidden, TopkIds = ids, TopkWeights = ones, ExpertMap = map }, actual);
        for (int t = 0; t < T; t++)
        {
            float[] row = ids[t] < 2 ? new float[H] : expected[(t * H)..((t + 1) * H)];
            AssertSame(row, actual[(t * H)..((t + 1) * H)], 0, $"row {t} of expert {ids[t]}");
        }

        static ExpertWeights Upper(ExpertWeights w) => new(w.Gate[2..], w.Up[2..], w.Down[2..]);
    }

    [Theory, MemberData(nameof(Schemes))]
    public void PartialSumsOfRanksAddUp(string backend, WeightFormat format, ActivationFormat activations)
    {
        using ExpertWeights all = RandomLayer.Weights(format, E, H, I, 4);
        using FusedExperts whole = Build(all, backend, activations);
        float[] expected = Run(whole, 0, T), sum = new float[T * H];
        foreach (int first in new[] { 0, 3 })
        {
            using var part = new ExpertWeights(all.Gate[first..(first + 3)], all.Up[first..(first + 3)], all.Down[first..(first + 3)]);
            using FusedExperts rank = Build(part, backend, activations, global: E);
            int[] map = [.. Enumerable.Range(0, E).Select(g => g >= first && g < first + 3 ? g - first : -1)];
            var output = new float[T * H];
            rank.Forward(new ExpertsInput { Hidden = Hidden, TopkIds = Ids, TopkWeights = Weights, ExpertMap = map }, output);
            for (int n = 0; n < sum.Length; n++) sum[n] += output[n];
        }
        Accuracy accuracy = Accuracy.Of(sum, expected);
        Assert.True(accuracy.RelativeL2 <= 1e-6, accuracy.ToString());
    }

    private static FusedExperts Build(
        ExpertWeights weights, string backend, ActivationFormat activations, int alignment = 1, long? budget = null, int topK = K, int global = -1) =>
        new(new()
        {
            TopK = topK,
            Activations = activations,
            RowAlignment = alignment,
            MaxWorkspaceBytes = budget,
            GlobalExperts = global,
        }, weights, ExpertsBackends.ByName(backend));

    private static float[] Run(FusedExperts experts, int first, int count, Workspace? workspace = null)
    {
        var output = new float[count * H];
        Array.Fill(output, float.NaN);
        experts.Forward(new ExpertsInput
        {
            Hidden = Hidden.AsSpan(first * H, count * H),
            TopkIds = Ids.AsSpan(first * K, count * K),
            TopkWeights = Weights.AsSpan(first * K, count * K),
        }, output, workspace);
        return output;
    }

    /// <param name="first">The row of <paramref name="expected"/> that is <paramref name="actual"/>'s first.</param>
    private static void AssertSame(float[] expected, float[] actual, int first, string what)
    {
        for (int n = 0; n < actual.Length; n++)
        {
            float e = expected[first * H + n];
            Assert.True(BitConverter.SingleToInt32Bits(e) == BitConverter.SingleToInt32Bits(actual[n]), $"{what}: row {first + n / H}, column {n % H} is {actual[n]:R} instead of {e:R}");
        }
    }
}
