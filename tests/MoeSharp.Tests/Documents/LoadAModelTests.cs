using Microsoft.Extensions.Logging;

namespace MoeSharp.Tests;

/// <summary>What docs/load-a-model.md shows.</summary>
public class LoadAModelTests
{
    private static readonly string path = Repository.PathOf("samples/tiny-qwen3-moe-fp8");

    [Fact]
    public void Open()
    {
        ILogger logger = new ListLogger();
        using var model = Checkpoint.Open(path, logger);                 // logger may be left out
        Console.WriteLine($"{model.FamilyName}: H {model.HiddenSize}, I {model.IntermediateSize}, layers with experts {model.MoeLayers[0]} to {model.MoeLayers[^1]}");
        foreach (string warning in model.Warnings) Console.WriteLine(warning);
        Assert.Equal(("Qwen3-MoE", 256, 128, 2), (model.FamilyName, model.HiddenSize, model.IntermediateSize, model.MoeLayers.Count));
    }

    [Fact]
    public void LoadALayer()
    {
        using var model = Checkpoint.Open(path);
        var logger = new ListLogger();
        IProgress<LoadProgress>? progress = null;
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        (BFloat16[] hidden, BFloat16[] output) = Buffers(model, 3);
        using var layer = MoeLayer.Load(model, model.MoeLayers[0], new() { MaxWorkspaceBytes = 1L << 30, Logger = logger }, progress, cancellation);
        layer.Forward(hidden, output);                                   // [T, H] BF16 in and out
        Assert.Contains(output, value => value.ToSingle() != 0);
        Assert.NotEmpty(logger.Events);
    }

    [Fact]
    public void AllLayersOneWorkspace()
    {
        const int tokens = 5;
        using var model = Checkpoint.Open(path);
        (BFloat16[] hidden, BFloat16[] output) = Buffers(model, tokens);
        MoeLayer[] layers = [.. model.MoeLayers.Select(index => MoeLayer.Load(model, index))];
        using var workspace = new Workspace(MoeLayer.PlanBytes(layers, tokens));
        foreach (MoeLayer each in layers) each.Forward(hidden, output, workspace);
        var alone = new BFloat16[output.Length];
        layers[^1].Forward(hidden, alone);
        Assert.Equal(alone, output);
        using var tooSmall = new Workspace(layers[0].PlanBytes(1) - 1);
        Assert.Throws<InvalidOperationException>(() => layers[0].Forward(hidden, output, tooSmall));
        foreach (MoeLayer each in layers) each.Dispose();
    }

    [Fact]
    public void PartsAddUp()
    {
        const int index = 1;
        using var model = Checkpoint.Open(path);
        using var experts = MoeLayer.Load(model, index, new() { Selection = new() { Experts = (0, 8) } });              // expert parallel: experts 0 .. 7
        using var rows = MoeLayer.Load(model, index, new() { Selection = new() { Intermediate = (0, 40) } });           // tensor parallel: any offset and size
        using var otherExperts = MoeLayer.Load(model, index, new() { Selection = new() { Experts = (8, 8) } });
        using var otherRows = MoeLayer.Load(model, index, new() { Activations = ActivationFormat.Bf16, Selection = new() { Intermediate = (40, 88) } });
        using var bf16Rows = MoeLayer.Load(model, index, new() { Activations = ActivationFormat.Bf16, Selection = new() { Intermediate = (0, 40) } });
        using var whole = MoeLayer.Load(model, index);
        using var bf16Whole = MoeLayer.Load(model, index, new() { Activations = ActivationFormat.Bf16 });
        (BFloat16[] hidden, _) = Buffers(model, 4);
        Assert.InRange(Difference(whole, [experts, otherExperts]), 0, 1e-10);
        Assert.InRange(Difference(bf16Whole, [bf16Rows, otherRows]), 0, 1e-4); // each part rounds its rows to BF16
        Assert.Equal(40, rows.Experts.Shape.Intermediate);

        double Difference(MoeLayer all, MoeLayer[] parts)
        {
            var expected = new float[hidden.Length];
            var sum = new float[hidden.Length];
            all.Forward(hidden, expected);
            foreach (MoeLayer part in parts)
            {
                var own = new float[hidden.Length];
                part.Forward(hidden, own);
                for (int i = 0; i < sum.Length; i++) sum[i] += own[i];
            }
            return expected.Zip(sum, (x, y) => (double)(x - y) * (x - y)).Sum() / expected.Sum(x => (double)x * x);
        }
    }

    private static (BFloat16[] Hidden, BFloat16[] Output) Buffers(Checkpoint model, int tokens) =>
        ([.. Enumerable.Range(0, tokens * model.HiddenSize).Select(i => (BFloat16)MathF.Sin(i))], new BFloat16[tokens * model.HiddenSize]);
}
