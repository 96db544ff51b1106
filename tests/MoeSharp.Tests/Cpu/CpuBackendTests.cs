namespace MoeSharp.Tests;

public class CpuBackendTests
{
    public static TheoryData<WeightFormat, ActivationFormat> FormatPairs => new()
    {
        { WeightFormat.Block128, ActivationFormat.Fp8 },
        { WeightFormat.Block128, ActivationFormat.Bf16 },
        { WeightFormat.Block128PowerOfTwo, ActivationFormat.Fp8 },
        { WeightFormat.Block128PowerOfTwo, ActivationFormat.Bf16 },
        { WeightFormat.MxFp8, ActivationFormat.Fp8 },
        { WeightFormat.MxFp8, ActivationFormat.Bf16 },
        { WeightFormat.Bf16, ActivationFormat.Bf16 },
    };

    private static readonly (int Hidden, int Intermediate)[] s_shapes = [(128, 128), (192, 96), (256, 640), (64, 1408), (416, 208), (40, 24), (161, 33)];

    private static readonly Activation[] s_activations =
    [
        Activation.Silu(), Activation.Silu(1.5f), Activation.SwigluOai(), Activation.SwigluStep(0.7f), Activation.GeluTanh(), Activation.SwigluOai(1.3f, 0.5f, 1.01f),
    ];

    private static float[] Run(IExpertsBackend backend, ExpertsOptions options, ExpertWeights weights, (BFloat16[] Hidden, int[] Ids, float[] Weights) call)
    {
        using var experts = new FusedExperts(options, weights, backend);
        return Run(experts, call);
    }

    private static float[] Run(FusedExperts experts, (BFloat16[] Hidden, int[] Ids, float[] Weights) call)
    {
        var output = new float[call.Hidden.Length];
        int tokens = call.Hidden.Length / experts.HiddenSize;
        using var workspace = new Workspace(Math.Max(experts.WorkspaceBytes(tokens), 1));
        workspace.Poison();
        experts.Forward(new ExpertsInput { Hidden = call.Hidden, TopkIds = call.Ids, TopkWeights = call.Weights }, output, workspace);
        return output;
    }

    [Theory]
    [MemberData(nameof(FormatPairs))]
    public void AgreesWithTheReference(WeightFormat format, ActivationFormat activations)
    {
        using var cpu = new CpuBackend(2);
        int number = 0;
        foreach ((int hidden, int intermediate) in s_shapes)
        {
            Activation activation = s_activations[number % s_activations.Length];
            RoundingMode? rounding = (number % 3) switch { 0 => null, 1 => RoundingMode.Fp32Once, _ => RoundingMode.Bf16Staged };
            var random = new RandomExperts(5, 3, hidden, intermediate, format, number);
            using ExpertWeights weights = random.Weights(biases: number++ % 2 == 1);
            var options = new ExpertsOptions { TopK = 3, Activations = activations, Activation = activation, Rounding = rounding };
            (BFloat16[], int[], float[]) call = random.Call(29);
            float[] expected = Run(ExpertsBackends.Reference, options, weights, call), actual = Run(cpu, options, weights, call);
            Accuracy accuracy = Accuracy.Of(actual, expected);
            double bound = activations == ActivationFormat.Fp8 && format != WeightFormat.MxFp8 ? 5e-4 : 2e-5;
            Assert.True(accuracy.CalcDiff <= bound, $"{format} {activations} H={hidden} I={intermediate} {activation} {rounding}: {accuracy}");
        }
    }

    /// <summary>The two tests around this one in small, with the kernel that is chosen: where each instruction is trapped, they would take an hour.</summary>
    [Theory]
    [MemberData(nameof(FormatPairs))]
    public void AFewRowsAgreeWithTheReferenceAloneAndTogether(WeightFormat format, ActivationFormat activations)
    {
        const int tokens = 35, h = 160; // of each expert 32 rows and a tail; of each row a block and a ragged one
        var random = new RandomExperts(2, 2, h, 48, format);
        using ExpertWeights weights = random.Weights(biases: true);
        var options = new ExpertsOptions { TopK = 2, Activations = activations };
        (BFloat16[] hidden, int[] ids, float[] routerWeights) = random.Call(tokens);
        using var one = new CpuBackend(1);
        using var two = new CpuBackend(2);
        float[] expected = Run(ExpertsBackends.Reference, options, weights, (hidden, ids, routerWeights)), whole = Run(two, options, weights, (hidden, ids, routerWeights));
        Accuracy accuracy = Accuracy.Of(whole, expected);
        Assert.True(accuracy.CalcDiff <= (activations == ActivationFormat.Fp8 && format != WeightFormat.MxFp8 ? 5e-4 : 2e-5), $"{format} {activations}: {accuracy}");
        foreach ((int first, int count) in new[] { (0, 1), (34, 1), (3, 9) })
        {
            int end = first + count;
            float[] some = Run(one, options, weights, (hidden[(first * h)..(end * h)], ids[(2 * first)..(2 * end)], routerWeights[(2 * first)..(2 * end)]));
            Assert.True(some.AsSpan().SequenceEqual(whole.AsSpan(first * h, count * h)), $"{format} {activations}: {count} rows from {first}");
        }
    }

    [Theory]
    [MemberData(nameof(FormatPairs))]
    public void BitsDependOnNothingButTheRow(WeightFormat format, ActivationFormat activations)
    {
        var random = new RandomExperts(4, 2, 192, 224, format); // of the second chunk of an intermediate row 6 tiles of 8, in parts of 4 and 2
        using ExpertWeights weights = random.Weights(biases: true);
        var options = new ExpertsOptions { TopK = 2, Activations = activations };
        const int tokens = 150; // several portions of rows for each expert, and several items
        (BFloat16[] hidden, int[] ids, float[] routerWeights) = random.Call(tokens);
        var bitsOf = new Dictionary<string, float[]>(); // kernels that multiply FP32 sum in the same order
        foreach (IGemmKernel kernel in GemmKernels.All.Where(kernel => kernel.IsSupported))
        {
            bool isFp32 = kernel is { Operand: Operand.F32, Name: not "avx512" }; // avx512 has an exponential function of its own
            string family = isFp32 ? "fp32" : kernel.Name;
            float[]? expected = bitsOf.GetValueOrDefault(family);
            foreach (int threads in (int[])[1, 2, 3, 4, 9]) // at 9 some have no task and help others
            {
                using var backend = new CpuBackend(threads, kernel);
                using var experts = new FusedExperts(options, weights, backend);
                float[] whole = Run(experts, (hidden, ids, routerWeights));
                expected ??= bitsOf[family] = whole;
                Assert.True(whole.AsSpan().SequenceEqual(expected), $"{kernel.Name}, {threads} threads, whole batch");
                Assert.True(Run(experts, (hidden, ids, routerWeights)).AsSpan().SequenceEqual(expected), $"{kernel.Name}, {threads} threads, again");
                foreach (int t in (int[])[0, 77, tokens - 1])
                {
                    float[] alone = Run(experts, (hidden[(t * 192)..((t + 1) * 192)], ids[(2 * t)..(2 * t + 2)], routerWeights[(2 * t)..(2 * t + 2)]));
                    Assert.True(alone.AsSpan().SequenceEqual(expected.AsSpan(t * 192, 192)), $"{kernel.Name}, {threads} threads, row {t} alone");
                }
                using var chunked = new FusedExperts(options with { MaxWorkspaceBytes = experts.WorkspaceBytes(7) }, weights, backend);
                Assert.True(Run(chunked, (hidden, ids, routerWeights)).AsSpan().SequenceEqual(expected), $"{kernel.Name}, {threads} threads, in chunks");
            }
        }
    }

    [Theory]
    [InlineData(WeightFormat.Block128)]
    [InlineData(WeightFormat.MxFp8)]
    public void QuantizedInputGivesTheSameBits(WeightFormat format)
    {
        var random = new RandomExperts(4, 2, 224, 96, format);
        using ExpertWeights weights = random.Weights();
        using var backend = new CpuBackend(2);
        using var experts = new FusedExperts(new ExpertsOptions { TopK = 2 }, weights, backend);
        (BFloat16[] hidden, int[] ids, float[] routerWeights) call = random.Call(9);
        var codes = new Float8E4M3[call.hidden.Length];
        var scales = new float[9 * 2];
        var mx = new ScaleE8M0[9 * 7];
        for (int t = 0; t < 9; t++)
        {
            if (format == WeightFormat.MxFp8) ActivationQuantizer.QuantizeRowMx(call.hidden.AsSpan(t * 224, 224), codes.AsSpan(t * 224, 224), mx.AsSpan(t * 7, 7));
            else ActivationQuantizer.QuantizeRow(call.hidden.AsSpan(t * 224, 224), QuantizationRule.Input, false, 128, codes.AsSpan(t * 224, 224), scales.AsSpan(t * 2, 2));
        }
        var output = new float[call.hidden.Length];
        var input = new ExpertsInput { QuantizedHidden = codes, TopkIds = call.ids, TopkWeights = call.routerWeights };
        if (format == WeightFormat.MxFp8) experts.Forward(input with { HiddenScalesE8M0 = mx }, output);
        else experts.Forward(input with { HiddenScales = scales }, output);
        Assert.Equal(Run(experts, call), output);
    }

    [Fact]
    public void RouterWeightOnInputAndBf16OutputFollowTheReference()
    {
        var random = new RandomExperts(3, 1, 160, 128, WeightFormat.Block128);
        using ExpertWeights weights = random.Weights();
        var options = new ExpertsOptions { TopK = 1, RouterWeightOnInput = true };
        using var backend = new CpuBackend(2);
        (BFloat16[] hidden, int[] ids, float[] routerWeights) = random.Call(11);
        var outputs = new List<BFloat16[]>();
        foreach (IExpertsBackend b in (IExpertsBackend[])[backend, ExpertsBackends.Reference])
        {
            using var experts = new FusedExperts(options, weights, b);
            var output = new BFloat16[hidden.Length];
            experts.Forward(hidden, ids, routerWeights, output);
            outputs.Add(output);
        }
        Accuracy accuracy = Accuracy.Of([.. outputs[0].Select(v => v.ToSingle())], [.. outputs[1].Select(v => v.ToSingle())]);
        Assert.True(accuracy.CalcDiff <= 5e-4, accuracy.ToString());
    }

    [Fact]
    public void EverythingDroppedGivesZerosAndOneExpertMayTakeAll()
    {
        var random = new RandomExperts(3, 4, 128, 128, WeightFormat.Block128);
        using ExpertWeights weights = random.Weights();
        using var backend = new CpuBackend(3);
        var options = new ExpertsOptions { TopK = 3 };
        random = new RandomExperts(3, 3, 128, 128, WeightFormat.Block128);
        (BFloat16[] hidden, int[] ids, float[] routerWeights) call = random.Call(140);
        Array.Fill(call.ids, -1);
        Assert.All(Run(backend, options, weights, call), value => Assert.Equal(0u, BitConverter.SingleToUInt32Bits(value)));
        Array.Fill(call.ids, 2);
        Accuracy accuracy = Accuracy.Of(Run(backend, options, weights, call), Run(ExpertsBackends.Reference, options, weights, call));
        Assert.True(accuracy.CalcDiff <= 5e-4, accuracy.ToString());
    }

    [Fact]
    public void AForwardAllocatesNothing()
    {
        var random = new RandomExperts(4, 2, 256, 128, WeightFormat.Block128);
        using ExpertWeights weights = random.Weights();
        using var backend = new CpuBackend(2);
        using var experts = new FusedExperts(new ExpertsOptions { TopK = 2 }, weights, backend);
        (BFloat16[] hidden, int[] ids, float[] routerWeights) = random.Call(8);
        var output = new BFloat16[hidden.Length];
        using var workspace = new Workspace(experts.WorkspaceBytes(8));
        for (int i = 0; i < 50; i++) experts.Forward(hidden, ids, routerWeights, output, workspace);
        long mine = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++) experts.Forward(hidden, ids, routerWeights, output, workspace);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - mine);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void NaNWeightsAreRefusedOrComputeAsNaN(bool allow)
    {
        var random = new RandomExperts(2, 1, 128, 128, WeightFormat.Block128);
        using ExpertWeights weights = random.Weights();
        unsafe
        {
            weights.Down[1].Storage.Values[5 * 128 + 3] = 0x7F;
        }
        using var backend = new CpuBackend(1);
        var options = new ExpertsOptions { TopK = 1, AllowNaNWeights = allow };
        if (!allow)
        {
            string message = Assert.Throws<CheckpointException>(() => new FusedExperts(options, weights, backend)).Message;
            Assert.Contains("down1", message);
            return;
        }
        (BFloat16[] hidden, int[] ids, float[] routerWeights) call = random.Call(2, someDropped: false);
        call.ids[0] = 0;
        call.ids[1] = 1;
        float[] output = Run(backend, options, weights, call);
        Assert.Equal([128 + 5], Enumerable.Range(0, 256).Where(i => float.IsNaN(output[i])));
    }
}
