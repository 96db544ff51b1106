using CsCheck;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

public class DevicePlanTests
{
    [Fact]
    public void CapacityAndTilesSufficeForAnyRouting() =>
        Gen.Select(Gen.Int[1, 3000], Gen.Int[1, 8], Gen.Int[8, 64], Gen.Int[0, 1 << 30]).Sample((tokens, topK, experts, seed) =>
        {
            DevicePlan plan = Plan(tokens, topK, experts);
            var random = new Random(seed);
            var counts = new int[experts];
            int crowd = random.Next(1, experts + 1);
            for (int slot = 0; slot < plan.Slots; slot++) counts[random.Next(crowd)]++;
            Assert.True(Permutation.ExactRows(counts, DevicePlan.RowAlignment) <= plan.Capacity, $"T={tokens} K={topK} E={experts} seed {seed}: rows exceed {plan.Capacity}");
            Assert.True(counts.Sum(DevicePlan.RowTiles) <= plan.MostTiles, $"T={tokens} K={topK} E={experts} seed {seed}: tiles exceed {plan.MostTiles}");
        });

    /// <summary>A cluster's first tile is read before it is known whether there is one.</summary>
    [Fact]
    public void WhereBothGemmsShareALaunchThereIsMemoryForTheTileThatIsReadFirst() =>
        Gen.Select(Gen.Int[1, 3000], Gen.Int[1, 8], Gen.Int[8, 64]).Sample((tokens, topK, experts) =>
        {
            DevicePlan plan = Plan(tokens, topK, experts);
            var workspace = new WorkspacePlan();
            plan.AddTo(workspace);
            long tiles = workspace.Rows[(int)Buffer.Tiles].Dim0, read = plan.GemmsShareALaunch ? plan.Capacity / 8 : 0;
            Assert.True(tiles >= plan.MostTiles && tiles >= read, $"T={tokens} K={topK} E={experts}: memory for {tiles} tiles, {plan.MostTiles} at most, one of the first {read} is read");
        });

    [Theory, InlineData(WeightFormat.MxFp8), InlineData(WeightFormat.Block128)]
    public void TheWideWorkListSufficesForAnyRouting(WeightFormat format) =>
        Gen.Select(Gen.Int[1, 3000], Gen.Int[1, 8], Gen.Int[8, 64], Gen.Int[0, 1 << 30]).Sample((tokens, topK, experts, seed) =>
        {
            using ExpertWeights weights = RandomLayer.Zeros(format, experts, 128, 128);
            var plan = new DevicePlan(ExpertsShape.From(new() { TopK = topK, Activations = ActivationFormat.Bf16 }, weights), tokens);
            var random = new Random(seed);
            var counts = new int[experts];
            int crowd = random.Next(1, experts + 1);
            for (int slot = 0; slot < plan.Slots; slot++) counts[random.Next(crowd)]++;
            int entries = counts.Sum(rows => DevicePlan.WideEntries(rows, DevicePlan.WideTileRows(format)));
            Assert.True(plan.IsWide && entries <= plan.MostTiles, $"T={tokens} K={topK} E={experts} seed {seed}: {entries} entries exceed {plan.MostTiles}");
        });

    [Fact]
    public void TilesHoldEveryRowOnce()
    {
        for (int rows = 0; rows < 3000; rows++)
        {
            int[] tiles = [.. DevicePlan.TilesOf(rows)];
            Assert.True(tiles.Sum() == rows && tiles.Length == DevicePlan.RowTiles(rows) && tiles.All(tile => tile is > 0 and <= DevicePlan.TileRows), $"{rows} rows: {string.Join(", ", tiles)}");
        }
    }

    [Fact]
    public void WideConstantsAreThoseOfTheScheduler()
    {
        string scheduler = File.ReadAllText(Repository.PathOf("kernels/include/wide_scheduler.cuh"));
        Assert.Contains($"constexpr int wide_few_rows = {DevicePlan.WideFewRows};", scheduler);
        string formats = File.ReadAllText(Repository.PathOf("kernels/include/wide_formats.cuh"));
        foreach (WeightFormat format in new[] { WeightFormat.MxFp8, WeightFormat.Block128, WeightFormat.Bf16 })
            Assert.Matches($@"struct {format} {{[^}}]*tile_rows = {DevicePlan.WideTileRows(format)};", formats);
    }

    [Fact]
    public void QuantizingBlocksCoverAllTokensOnce() => Gen.Select(Gen.Int[1, 100_000], Gen.Int[1, 200]).Sample((tokens, multiprocessors) =>
    {
        (int blocks, int perBlock, _) = Plan(tokens, 1, 8).QuantizeGrid(multiprocessors);
        Assert.True(blocks <= multiprocessors && (long)(blocks - 1) * perBlock < tokens && (long)blocks * perBlock >= tokens,
            $"{blocks} blocks of {perBlock} tokens for {tokens} tokens on {multiprocessors} multiprocessors");
    });

    [Fact]
    public void LongRunsCoverAllTokensAndFit() => Gen.Select(Gen.Int[1, 100_000], Gen.Int[1, 200], Gen.Int[1, 60], Gen.Int[1, 32]).Sample((tokens, multiprocessors, hiddenBlocks, topK) =>
    {
        using ExpertWeights weights = SyntheticWeights.OnlySizes(new BenchShape("test", 256, topK, hiddenBlocks * 128, 128), WeightFormat.Block128);
        (int blocks, int perBlock, int shared) = new DevicePlan(ExpertsShape.From(new() { TopK = topK }, weights), tokens).RunsGrid(multiprocessors);
        int runs = (tokens + perBlock - 1) / perBlock, parts = blocks / runs;
        Assert.True(parts >= 1 && blocks == runs * parts && parts <= hiddenBlocks && shared is > 0 and <= 227 * 1024 && perBlock <= 512 && (blocks <= multiprocessors || (parts == 1 && perBlock >= 256)),
            $"{parts} blocks for each of {runs} runs of {perBlock} tokens with {shared} bytes, for {tokens} tokens, K={topK}, {hiddenBlocks} K blocks, on {multiprocessors} multiprocessors");
    });

    /// <summary>160 rows per multiprocessor, of the experts that are here.</summary>
    [Theory]
    [InlineData(8192, 8, 256, 256, WeightFormat.Block128, ActivationFormat.Fp8, true)]
    [InlineData(8192, 8, 32, 256, WeightFormat.Block128, ActivationFormat.Fp8, false)]
    [InlineData(21120, 8, 32, 256, WeightFormat.Block128PowerOfTwo, ActivationFormat.Fp8, true)]
    [InlineData(2640, 8, 128, 128, WeightFormat.Block128, ActivationFormat.Fp8, true)]
    [InlineData(2639, 8, 128, 128, WeightFormat.Block128, ActivationFormat.Fp8, false)]
    [InlineData(8192, 8, 256, 256, WeightFormat.Block128, ActivationFormat.Bf16, false)]
    [InlineData(8192, 8, 256, 256, WeightFormat.MxFp8, ActivationFormat.Fp8, false)]
    public void ManyRowsArePlacedInLongRuns(int tokens, int topK, int experts, int global, WeightFormat format, ActivationFormat activations, bool longRuns)
    {
        Assert.Equal(longRuns, OfRank(tokens, topK, experts, global, activations, format).HasLongRuns(multiprocessors: 132));
    }

    /// <summary>168 rows per expert, wherever the experts are.</summary>
    [Theory]
    [InlineData(2688, 8, 128, 128, ActivationFormat.Fp8, true)]
    [InlineData(2687, 8, 128, 128, ActivationFormat.Fp8, false)]
    [InlineData(5376, 8, 32, 256, ActivationFormat.Fp8, true)]
    [InlineData(8192, 8, 128, 128, ActivationFormat.Bf16, false)]
    public void ManyRowsTakeGemmsOfTheirOwn(int tokens, int topK, int experts, int global, ActivationFormat activations, bool manyRows)
    {
        Assert.Equal(manyRows, OfRank(tokens, topK, experts, global, activations).HasManyRows);
    }

    /// <summary>Where an expert expects many rows each GEMM has a launch of its own, wherever the experts are, and where there are many rows in all, or on the wide kernels many experts with few.</summary>
    [Theory]
    [InlineData(1535, 8, 128, 128, ActivationFormat.Fp8, true)]
    [InlineData(1536, 8, 128, 128, ActivationFormat.Fp8, false)]
    [InlineData(3071, 8, 32, 256, ActivationFormat.Fp8, true)]
    [InlineData(3072, 8, 32, 256, ActivationFormat.Fp8, false)]
    [InlineData(1535, 8, 256, 256, ActivationFormat.Fp8, true)]
    [InlineData(1536, 8, 256, 256, ActivationFormat.Fp8, false)]
    [InlineData(1536, 8, 256, 256, ActivationFormat.Bf16, true)]
    [InlineData(1023, 8, 128, 128, ActivationFormat.Bf16, true)]
    [InlineData(1024, 8, 128, 128, ActivationFormat.Bf16, false)]
    [InlineData(128, 8, 128, 128, ActivationFormat.Bf16, false)] // many short units of the wide kernels
    [InlineData(129, 8, 128, 128, ActivationFormat.Bf16, true)]
    [InlineData(128, 8, 127, 127, ActivationFormat.Bf16, true)]
    [InlineData(128, 8, 32, 256, ActivationFormat.Bf16, true)]
    [InlineData(128, 8, 128, 128, ActivationFormat.Fp8, true)]
    public void ManyRowsTakeALaunchPerGemm(int tokens, int topK, int experts, int global, ActivationFormat activations, bool together)
    {
        DevicePlan plan = OfRank(tokens, topK, experts, global, activations);
        Assert.Equal(together, plan.GemmsShareALaunch);
        var table = new WorkspacePlan();
        plan.AddTo(table);
        WorkspaceRow results = table.Rows[(int)Buffer.Results], rows = table.Rows[(int)Buffer.Rows];
        Assert.Equal(together, rows.Offset >= results.Offset + results.Bytes); // else results lie where rows were
    }

    /// <summary>What is reserved for a call suffices for one of fewer tokens, though that may need room for results beside rows.</summary>
    [Theory]
    [InlineData(WeightFormat.Block128, ActivationFormat.Fp8, 8)]
    [InlineData(WeightFormat.MxFp8, ActivationFormat.Fp8, 8)]
    [InlineData(WeightFormat.MxFp8, ActivationFormat.Fp8, 130)]
    [InlineData(WeightFormat.Block128, ActivationFormat.Bf16, 8)]
    public void AWorkspaceSufficesForFewerTokens(WeightFormat format, ActivationFormat activations, int experts)
    {
        using ExpertWeights weights = SyntheticWeights.OnlySizes(new BenchShape("test", experts, 2, 640, 384), format);
        ExpertsShape shape = ExpertsShape.From(new() { TopK = 2, Activations = activations }, weights);
        var plan = new WorkspacePlan();
        long before = 0;
        for (int tokens = 1; tokens < 900; tokens++)
        {
            long bytes = new DevicePlan(shape, tokens).Bytes(plan);
            Assert.True(bytes >= before, $"{tokens} tokens need {bytes} bytes, {tokens - 1} need {before}");
            Assert.True(plan.Bytes <= bytes, $"{tokens} tokens: the plan ends at {plan.Bytes} of {bytes}");
            before = bytes;
        }
    }

    [Fact]
    public void BuffersOfDifferentStepsShareBytes()
    {
        DevicePlan plan = Plan(4096, 4, 16);
        Assert.False(plan.GemmsShareALaunch);
        var table = new WorkspacePlan();
        plan.AddTo(table);
        Assert.Equal(Enum.GetValues<Buffer>().Length, table.Rows.Length);
        Assert.True(table.Bytes < table.Rows.ToArray().Sum(r => r.Bytes), "rows of GateUp and results of Down never live together");
    }

    [Fact]
    public void TheLargestTileIsThatOfTheScheduler()
    {
        string scheduler = File.ReadAllText(Repository.PathOf("kernels/include/scheduler.cuh"));
        Assert.Contains($"constexpr int tile_rows = {DevicePlan.TileRows};", scheduler);
        Assert.Contains($"constexpr int narrow_rows = {DevicePlan.NarrowRows};", scheduler);
        Assert.Contains($"tile_counts = {DevicePlan.TileCounts} }};", File.ReadAllText(Repository.PathOf("kernels/include/arguments.cuh")));
    }

    /// <summary>Slots that shared memory leaves to a ring of the one launch, on layers of real sizes; 0 tokens where they are too few.</summary>
    [Theory]
    [InlineData(7168, 2048, WeightFormat.Block128, ActivationFormat.Fp8, 5, 8)]
    [InlineData(2048, 768, WeightFormat.Block128, ActivationFormat.Fp8, 6, 8)]
    [InlineData(7168, 2048, WeightFormat.MxFp8, ActivationFormat.Fp8, 4, 8)]
    [InlineData(7168, 2048, WeightFormat.MxFp8, ActivationFormat.Bf16, 4, 8)]
    [InlineData(7168, 2048, WeightFormat.Block128, ActivationFormat.Bf16, 4, 8)]
    [InlineData(7168, 2048, WeightFormat.Bf16, ActivationFormat.Bf16, 4, 8)]
    [InlineData(2048, 768, WeightFormat.MxFp8, ActivationFormat.Fp8, 7, 8)]
    [InlineData(2880, 2880, WeightFormat.Bf16, ActivationFormat.Bf16, 3, 8)]
    [InlineData(4096, 14336, WeightFormat.MxFp8, ActivationFormat.Fp8, 0, 0)]
    public void TheRingTakesWhatIsLeft(int hidden, int intermediate, WeightFormat format, ActivationFormat activations, int slots, int tokens)
    {
        using ExpertWeights weights = SyntheticWeights.OnlySizes(new BenchShape("test", 8, 2, hidden, intermediate), format);
        var plan = new FewPlan(ExpertsShape.From(new() { TopK = 2, Activations = activations }, weights));
        Assert.Equal((slots, tokens), (plan.RingSlots, plan.MostTokens));
    }

    /// <summary>Of a rank with so many of all experts, with the sizes of Qwen3-30B.</summary>
    private static DevicePlan OfRank(int tokens, int topK, int experts, int global, ActivationFormat activations, WeightFormat format = WeightFormat.Block128)
    {
        using ExpertWeights weights = SyntheticWeights.OnlySizes(new BenchShape("test", experts, topK, 2048, 768), format);
        return new(ExpertsShape.From(new() { TopK = topK, GlobalExperts = global, Activations = activations }, weights), tokens);
    }

    private static DevicePlan Plan(int tokens, int topK, int experts)
    {
        using ExpertWeights weights = RandomLayer.Zeros(WeightFormat.Block128, experts, 128, 128);
        return new(ExpertsShape.From(new() { TopK = topK }, weights), tokens);
    }
}
