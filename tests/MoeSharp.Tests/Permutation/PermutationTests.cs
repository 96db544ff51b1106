namespace MoeSharp.Tests;

public class PermutationTests
{
    private static readonly int[] Ids = [2, 0, 3, 2, 1, 3]; // three tokens, two slots each

    [Theory]
    [InlineData(4, 12, 8)]
    [InlineData(128, 384, 256)]
    [InlineData(32, 96, 64)]
    public void TheWorkedExampleOnOneRankOfTwo(int alignment, int maxRows, int exactRows)
    {
        (int[] local, int[] counts, int[] starts, int[] ends, int[] rowOfSlot, int[] slotOfRow) = Run(Ids, [-1, -1, 0, 1], 4, 2, alignment);
        Assert.Equal([0, -1, 1, 0, -1, 1], local);
        Assert.Equal([2, 2], counts);
        Assert.Equal([0, alignment], starts);
        Assert.Equal([2, alignment + 2], ends);
        Assert.Equal([0, -1, alignment, 1, -1, alignment + 1], rowOfSlot);
        Assert.Equal(maxRows, Permutation.MaxRows(Ids.Length, 2, alignment));
        Assert.Equal(exactRows, Permutation.ExactRows(counts, alignment));
        var expected = new int[maxRows];
        Array.Fill(expected, -1);
        (expected[0], expected[1], expected[alignment], expected[alignment + 1]) = (0, 3, 2, 5);
        Assert.Equal(expected, slotOfRow);
    }

    [Fact]
    public void TheWorkedExampleWithAllExpertsLocal()
    {
        (_, int[] counts, int[] starts, int[] ends, int[] rowOfSlot, int[] slotOfRow) = Run(Ids, [], 4, 4, 4);
        Assert.Equal([1, 1, 2, 2], counts);
        Assert.Equal([0, 4, 8, 12], starts);
        Assert.Equal([1, 5, 10, 14], ends);
        Assert.Equal([8, 0, 12, 9, 4, 13], rowOfSlot);
        Assert.Equal([1, -1, -1, -1, 4, -1, -1, -1, 0, 3, -1, -1, 2, 5, -1, -1, -1, -1, -1, -1], slotOfRow);
        Assert.Equal((20, 16), (Permutation.MaxRows(6, 4, 4), Permutation.ExactRows(counts, 4)));
        Assert.Equal((640, 512), (Permutation.MaxRows(6, 4, 128), Permutation.ExactRows(counts, 128)));
    }

    [Fact]
    public void TheWorkedExampleCombines()
    {
        using ExpertWeights weights = RandomLayer.Zeros(WeightFormat.Block128, 2, 1, 1);
        ExpertsShape shape = ExpertsShape.From(new() { TopK = 2, GlobalExperts = 4, RowAlignment = 4 }, weights);
        (int[] local, _, _, _, int[] rowOfSlot, int[] slotOfRow) = Run(Ids, [-1, -1, 0, 1], 4, 2, 4);
        var down = new BFloat16[slotOfRow.Length];
        Array.Fill(down, BFloat16.FromSingle(float.NaN)); // padding must not be read
        foreach ((int row, float value) in new[] { (0, 8f), (1, -2f), (4, 4f), (5, 16f) }) down[row] = BFloat16.FromSingle(value);
        var output = new float[3];
        var call = new ExpertsCall { Tokens = 3, LocalIds = local, Weights = [0.625f, 0.375f, 0.75f, 0.25f, 0.5f, 0.5f], OutputF32 = output };
        Combine.Run(shape, call, rowOfSlot, down);
        Assert.Equal([5f, 2.5f, 8f], output);
    }

    [Theory]
    [InlineData(1, 8, 32, 1024)]
    [InlineData(8, 8, 256, 8192)]
    [InlineData(64, 8, 32, 4608)]
    [InlineData(128, 6, 32, 4864)]
    [InlineData(512, 8, 32, 8192)]
    [InlineData(4096, 8, 32, 36864)]
    public void MaxRowsGivesTheSeedsFigures(int tokens, int topK, int experts, long rows) => Assert.Equal(rows, Permutation.MaxRows((long)tokens * topK, experts, 128));

    [Theory]
    [InlineData(2, 3, 1, 2)]
    [InlineData(0, 4, 0, 4)]
    [InlineData(8, 0, 0, 0)]
    [InlineData(1, 2, 3, 4, 5, 6, 7, 8)]
    [InlineData(128, 128, 128, 128)]
    [InlineData(200, 50)]
    [InlineData(130, 10, 200)]
    public void GivenCountsGiveContiguousExperts(params int[] counts)
    {
        int[] ids = [.. counts.SelectMany((count, e) => Enumerable.Repeat(e, count))];
        new Random(1).Shuffle(ids);
        foreach (int alignment in new[] { 1, 4, 128 }) CheckLayout(ids, counts.Length, alignment);
    }

    [Fact]
    public void AnyRoutingIsABijectionInStableOrder()
    {
        var random = new Random(7);
        for (int round = 0; round < 200; round++)
        {
            int experts = random.Next(1, 40), alignment = random.Next(1, 130);
            int[] ids = [.. Enumerable.Range(0, random.Next(0, 90)).Select(_ => random.Next(-1, experts))];
            CheckLayout(ids, experts, alignment);
        }
    }

    [Fact]
    public void AnIdOutOfRangeIsNamed()
    {
        var error = Assert.Throws<ArgumentException>(() => Permutation.MapIds<long>([0, 1, 2, 1L << 40], [], 3, 2, new int[4]));
        Assert.StartsWith("topk_ids[1, 1] is 1099511627776; ids must lie in -1 .. 2.", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ArgumentException>(() => Permutation.MapIds<int>([0, -2], [], 3, 1, new int[2]));
        Assert.StartsWith("topk_ids[1, 0] is -2;", error.Message, StringComparison.Ordinal);
    }

    /// <summary>Each slot has a row of its own inside its expert's aligned range, in ascending order.</summary>
    private static void CheckLayout(int[] ids, int experts, int alignment)
    {
        string what = $"{experts} experts, alignment {alignment}, ids {string.Join(",", ids.Take(20))}";
        (_, int[] counts, int[] starts, int[] ends, int[] rowOfSlot, int[] slotOfRow) = Run(ids, [], experts, experts, alignment);
        Assert.True(Permutation.ExactRows(counts, alignment) <= slotOfRow.Length, what);
        for (int e = 0; e < experts; e++)
        {
            int[] slots = [.. Enumerable.Range(0, ids.Length).Where(s => ids[s] == e)];
            Assert.True(starts[e] % alignment == 0 && counts[e] == slots.Length && ends[e] == starts[e] + slots.Length, what);
            Assert.True(slots.Select(s => rowOfSlot[s]).SequenceEqual(Enumerable.Range(starts[e], slots.Length)), what);
        }
        for (int slot = 0; slot < ids.Length; slot++) Assert.True(ids[slot] < 0 ? rowOfSlot[slot] == -1 : slotOfRow[rowOfSlot[slot]] == slot, what);
        Assert.True(slotOfRow.Count(s => s >= 0) == ids.Count(id => id >= 0), what);
    }

    private static (int[] Local, int[] Counts, int[] Starts, int[] Ends, int[] RowOfSlot, int[] SlotOfRow) Run(
        int[] ids, int[] map, int globalExperts, int experts, int alignment)
    {
        int[] local = new int[ids.Length], counts = new int[experts], ends = new int[experts], rowOfSlot = new int[ids.Length];
        var slotOfRow = new int[Permutation.MaxRows(ids.Length, experts, alignment)];
        Permutation.MapIds<int>(ids, map, globalExperts, 2, local);
        Permutation.Count(local, counts);
        Permutation.Starts(counts, alignment, ends);
        int[] starts = [.. ends];
        Permutation.Assign(local, ends, rowOfSlot, slotOfRow);
        return (local, counts, starts, ends, rowOfSlot, slotOfRow);
    }
}
