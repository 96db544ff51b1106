namespace MoeSharp.Tests;

/// <summary>Every stage against recordings of GPU kernels: equality of all but the GEMMs, given each stage's recorded input.</summary>
public class GoldenTests(ITestOutputHelper report)
{
    public static TheoryData<string> Names => Golden.Names;

    [Theory, MemberData(nameof(Names))]
    public void QuantizeGivesTheRecordedCodesAndScales(string name)
    {
        Golden golden = Golden.Open(name);
        ExpertsShape shape = golden.Shape();
        var hidden = new Rows(golden.Hidden, Formats.Blocks(golden.Hidden, 128))
        {
            Codes = new Float8E4M3[golden.Tokens * golden.Hidden],
            Scales = new float[golden.Get<float>("a1_scale").Length],
        };
        var call = new ExpertsCall { Tokens = golden.Tokens, Hidden = golden.Get<BFloat16>("hidden"), LocalIds = golden.Ids, Weights = golden.Weights };
        Quantize.Run(shape, call, hidden, new BFloat16[golden.Hidden]);
        AssertNoMismatch<Float8E4M3>(golden.Get<Float8E4M3>("a1q"), hidden.Codes, $"{name} codes");
        AssertNoMismatch<float>(golden.Get<float>("a1_scale"), hidden.Scales, $"{name} scales");
    }

    [Theory, MemberData(nameof(Names))]
    public void PermuteAgreesUpToTheOrderInsideAnExpert(string name)
    {
        Golden golden = Golden.Open(name);
        ExpertsShape shape = golden.Shape();
        int slots = golden.Tokens * golden.TopK, recordedRows = golden.Get<int>("expert_ids").Length;
        var localIds = new int[slots];
        Permutation.MapIds<int>(golden.Ids, golden.ExpertMap, golden.GlobalExperts, golden.TopK, localIds);
        Assert.Equal(recordedRows, Permutation.MaxRows(slots, golden.Experts, shape.RowAlignment));
        int groups = Formats.Blocks(golden.Hidden, 128);
        var grouping = new Grouping { Counts = new int[golden.Experts], Ends = new int[golden.Experts], RowOfSlot = new int[slots], SlotOfRow = new int[recordedRows] };
        var permuted = new Rows(golden.Hidden, groups) { Codes = new Float8E4M3[recordedRows * golden.Hidden], Scales = new float[recordedRows * groups] };
        Permute.Run(shape, localIds, golden.Quantized("a1q", "a1_scale", golden.Hidden), grouping, permuted);

        int[] expertOfRow = golden.Get<int>("expert_ids"), recorded = golden.Get<int>("inv_perm"), rows = golden.RecordedRows;
        for (int row = 0; row < recordedRows; row++)
        {
            int slot = grouping.SlotOfRow[row];
            Assert.True((slot < 0 ? -1 : localIds[slot]) == expertOfRow[row], $"{name}: row {row} belongs to another expert than recorded.");
        }
        Rows recordedPermuted = golden.Quantized("a1q_perm_rows", "a1_scale_perm_rows", golden.Hidden);
        for (int slot = 0; slot < slots; slot++)
        {
            int own = grouping.RowOfSlot[slot];
            Assert.True(own < 0 == localIds[slot] < 0, $"{name}: slot {slot} goes to row {own} but its local expert is {localIds[slot]}.");
            if (own < 0) continue;
            Assert.Equal(expertOfRow[own], expertOfRow[recorded[slot]]);
            int at = Array.IndexOf(rows, recorded[slot]);
            AssertNoMismatch<Float8E4M3>(recordedPermuted.Slice(at, 1).Codes, permuted.Slice(own, 1).Codes, $"{name} slot {slot} codes");
            AssertNoMismatch<float>(recordedPermuted.Slice(at, 1).Scales, permuted.Slice(own, 1).Scales, $"{name} slot {slot} scales");
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void ActivateGivesTheRecordedCodesAndScales(string name)
    {
        Golden golden = Golden.Open(name);
        int width = golden.Intermediate, count = golden.RecordedRows.Length, groups = Formats.Blocks(width, 128);
        (BFloat16[] gate, BFloat16[] up) = Halves(golden.Get<BFloat16>("mm1_out_rows"), width);
        var activated = new Rows(width, groups) { Codes = new Float8E4M3[count * width], Scales = new float[count * groups] };
        Activate.Run(golden.Shape(), golden.RecordedRows, gate, up, new BFloat16[width], activated);
        Float8E4M3[] codes = golden.Get<Float8E4M3>("a2q_rows");
        float[] scales = golden.Get<float>("a2_scale_rows");
        AssertNoMismatch<Float8E4M3>(codes, activated.Codes, $"{name} codes");
        AssertNoMismatch<float>(scales, activated.Scales, $"{name} scales");
    }

    [Fact]
    public void SwigluStepGivesTheRecordedProducts()
    {
        Golden golden = Golden.Open("g5_swiglustep");
        (BFloat16[] gate, BFloat16[] up) = Halves(golden.Get<BFloat16>("mm1_out_rows"), golden.Intermediate);
        BFloat16[] products = [.. gate.Zip(up, (g, u) => GatedActivation.Apply(golden.Activation, RoundingMode.Bf16Staged, g, u))];
        AssertNoMismatch<BFloat16>(golden.Get<BFloat16>("act_out_rows"), products, "products");
    }

    [Theory, MemberData(nameof(Names))]
    public void CombineGivesTheRecordedOutput(string name)
    {
        Golden golden = Golden.Open(name);
        int[] rows = golden.RecordedRows, localIds = new int[golden.Ids.Length];
        Permutation.MapIds<int>(golden.Ids, golden.ExpertMap, golden.GlobalExperts, golden.TopK, localIds);
        int[] rowOfSlot = [.. golden.Get<int>("inv_perm").Select((row, slot) => localIds[slot] < 0 ? -1 : Array.IndexOf(rows, row))];
        var output = new BFloat16[golden.Tokens * golden.Hidden];
        var call = new ExpertsCall { Tokens = golden.Tokens, LocalIds = localIds, Weights = golden.Weights, Output = output };
        Combine.Run(golden.Shape(), call, rowOfSlot, golden.Get<BFloat16>("mm2_out_rows"));
        AssertNoMismatch<BFloat16>(golden.Get<BFloat16>("output"), output, $"{name} output");
    }

    [Theory, MemberData(nameof(Names))]
    public void GemmsAreCloseToFloat64(string name)
    {
        Golden golden = Golden.OpenWhole(name);
        using ExpertWeights weights = golden.Load();
        int h = golden.Hidden, i = golden.Intermediate, count = golden.RecordedRows.Length;
        int[] expertOfRow = golden.Get<int>("expert_ids");
        int[] experts = [.. golden.RecordedRows.Select(row => expertOfRow[row])];
        Compare("gate", weights.Gate, golden.Quantized("a1q_perm_rows", "a1_scale_perm_rows", h), Halves(golden.Get<BFloat16>("mm1_out_rows"), i).Gate);
        Compare("up", weights.Up, golden.Quantized("a1q_perm_rows", "a1_scale_perm_rows", h), Halves(golden.Get<BFloat16>("mm1_out_rows"), i).Up);
        Compare("down", weights.Down, golden.Quantized("a2q_rows", "a2_scale_rows", i), golden.Get<BFloat16>("mm2_out_rows"));

        void Compare(string what, BlockScaledMatrix[] matrices, Rows x, BFloat16[] recorded)
        {
            int n = matrices[0].Rows;
            var actual = new BFloat16[count * n];
            var exact = new float[count * n];
            var scratch = new float[GroupedGemm.Scratch(x.Width)];
            for (int r = 0; r < count; r++)
            {
                GroupedGemm.Run(matrices[experts[r]], default, x.Slice(r, 1), scratch, actual.AsSpan(r * n, n));
                for (int c = 0; c < n; c++) exact[r * n + c] = (float)Oracle.Dot(x, r, matrices[experts[r]], c);
            }
            Accuracy own = Accuracy.Of(Widen(actual), exact), gpu = Accuracy.Of(Widen(recorded), exact);
            report.WriteLine($"{name} {what}: {own}; the recorded: {gpu}");
            Assert.True(own.CalcDiff <= 5e-6, $"{name} {what} against float64: {own}");
            Assert.True(gpu.CalcDiff <= 5e-6, $"{name} {what}, recorded output against float64: {gpu}; the wrong rows are being compared");
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void TheWholeLayerIsCloseToTheRecordedOutput(string name)
    {
        Golden golden = Golden.OpenWhole(name);
        using ExpertWeights weights = golden.Load();
        foreach (IExpertsBackend backend in ExpertsBackends.All)
        {
            using var experts = new FusedExperts(golden.Options, weights, backend);
            var output = new BFloat16[golden.Tokens * golden.Hidden];
            var outputF32 = new float[output.Length];
            var input = new ExpertsInput { Hidden = golden.Get<BFloat16>("hidden"), TopkIds = golden.Ids, TopkWeights = golden.Weights, ExpertMap = golden.ExpertMap };
            experts.Forward(input, output);
            experts.Forward(input, outputF32);
            Accuracy recorded = Accuracy.Of(output, golden.Get<BFloat16>("output"));
            Accuracy exact = Accuracy.Of(outputF32, [.. golden.Get<double>("ref_output_f64").Select(v => (float)v)]);
            report.WriteLine($"{name} on {backend.Name}: against the recorded output {recorded}; against float64 {exact}");
            Assert.True(recorded.CalcDiff <= 5e-4, $"{name} on {backend.Name} against the recorded output: {recorded}");
            Assert.True(exact.CalcDiff <= 5e-4, $"{name} on {backend.Name} against float64: {exact}");
        }
    }

    private static (BFloat16[] Gate, BFloat16[] Up) Halves(BFloat16[] packed, int width)
    {
        BFloat16[][] rows = [.. packed.Chunk(2 * width)];
        return ([.. rows.SelectMany(r => r[..width])], [.. rows.SelectMany(r => r[width..])]);
    }

    private static float[] Widen(BFloat16[] values) => [.. values.Select(v => v.ToSingle())];

    private static void AssertNoMismatch<T>(ReadOnlySpan<T> expected, ReadOnlySpan<T> actual, string what) where T : unmanaged, IEquatable<T>
    {
        Assert.True(expected.Length == actual.Length, $"{what}: {actual.Length} elements instead of {expected.Length}");
        int mismatches = 0, first = -1;
        for (int i = 0; i < expected.Length; i++)
        {
            if (expected[i].Equals(actual[i])) continue;
            if (mismatches++ == 0) first = i;
        }
        Assert.True(mismatches == 0, mismatches == 0 ? "" : $"{what}: {mismatches} of {expected.Length} differ, first [{first}]: {actual[first]} instead of {expected[first]}");
    }
}
