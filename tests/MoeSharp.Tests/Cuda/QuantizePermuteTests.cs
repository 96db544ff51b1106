using System.Runtime.InteropServices;
using static MoeSharp.Tests.Gpu;

namespace MoeSharp.Tests;

/// <summary>Where the first kernels put rows, what they write there and their tiles, against the CPU's permutation and quantizer: equal in every bit.</summary>
[Trait("Category", "Cuda")]
public class QuantizePermuteTests
{
    private const int Hidden = 648; // six blocks, the last ragged, so that two of four groups of eight threads are idle in the second warp of a row
    private const int WholeHidden = 656; // the same, of whole pieces of 16

    public static TheoryData<string, int, int, int, int> Cases => new()
    {
        { "random", 1, 8, 256, 256 },
        { "random", 2, 3, 5, 5 },
        { "random", 133, 7, 9, 9 },
        { "random", 999, 8, 40, 40 },
        { "few experts", 4099, 3, 4, 4 },
        { "one expert", 1500, 5, 6, 6 },
        { "nothing", 777, 4, 6, 6 },
        { "dropped", 1001, 3, 33, 33 },
        { "expert map", 1531, 8, 32, 256 },
        { "the same experts for all", 1024, 8, 16, 16 },
    };

    [Theory, MemberData(nameof(Cases))]
    public void RowsLieWhereTheCpuPutsThem(string what, int tokens, int topK, int experts, int global) => Compare(Kernel.Whole, what, tokens, topK, experts, global);

    [Theory, MemberData(nameof(Cases))]
    public void RaggedRowsLieThereToo(string what, int tokens, int topK, int experts, int global) => Compare(Kernel.Ragged, what, tokens, topK, experts, global);

    [Theory, MemberData(nameof(Cases))]
    public void RowsOfLongRunsLieThereToo(string what, int tokens, int topK, int experts, int global) => Compare(Kernel.Runs, what, tokens, topK, experts, global);

    private enum Kernel
    {
        Whole, Ragged, Runs,
    }

    private static void Compare(Kernel kernel, string what, int tokens, int topK, int experts, int global)
    {
        using CudaBackend backend = Gpu.Open();
        foreach (bool misaligned in new[] { false, true })
            foreach (WeightFormat format in new[] { WeightFormat.Block128, WeightFormat.Block128PowerOfTwo })
                Compare(backend, kernel, $"{what}, T={tokens} K={topK} E={experts} of {global}, {format}, ids {(misaligned ? "not " : "")}aligned", what, tokens, topK, experts, global,
                    format, misaligned);
    }

    private static void Compare(
        CudaBackend backend, Kernel kernel, string where, string what, int tokens, int topK, int experts, int global, WeightFormat format, bool misaligned)
    {
        int size = kernel == Kernel.Ragged ? Hidden : WholeHidden;
        (int[] ids, int[] map, int[] local) = Slots(what, tokens, topK, experts, global);
        BFloat16[] x = RandomLayer.Hidden(tokens, size, 5);
        using ExpertWeights weights = RandomLayer.Zeros(format, experts, size, 128);
        ExpertsShape shape = ExpertsShape.From(new() { TopK = topK, GlobalExperts = global }, weights);
        var plan = new DevicePlan(shape, tokens);
        int blocks = plan.HiddenBlocks, capacity = plan.Capacity, shift = misaligned ? 1 : 0;

        using var kernels = new KernelSet(backend.Context());
        using var stream = new CudaStream(kernels.Context);
        using CudaContext.Scope scope = kernels.Context.Enter();
        using DeviceBuffer hidden = Upload(stream, x), idBuffer = Upload<int>(stream, [.. new int[shift], .. ids]), mapBuffer = Upload<int>(stream, [.. map, 0]);
        using DeviceBuffer rows = Room(stream, (long)blocks * capacity * 128), scales = Room(stream, (long)blocks * capacity * 4);
        using DeviceBuffer rowOfSlot = Room(stream, ids.Length * 4), tiles = Room(stream, plan.MostTiles * 32), tileCount = Room(stream, DevicePlan.TileCounts * 4);
        int multiprocessors = kernels.Context.Multiprocessors;
        (int grid, int perBlock, int shared) = kernel != Kernel.Runs ? plan.QuantizeGrid(multiprocessors)
            : plan.RunsGrid(misaligned ? 24 : multiprocessors); // on 24 several blocks share a run, and runs of 4099 tokens are long; on the emulator's four they are the longest
        (kernel switch { Kernel.Runs => kernels.QuantizeRuns, Kernel.Whole => kernels.Quantize, _ => kernels.QuantizeRagged }).Launch(new QuantizeArguments
        {
            Hidden = hidden.Address,
            Ids = idBuffer.Address + 4 * (ulong)shift,
            ExpertMap = map.Length == 0 ? 0 : mapBuffer.Address,
            Rows = rows.Address,
            Scales = scales.Address,
            RowOfSlot = rowOfSlot.Address,
            Tiles = tiles.Address,
            TileCount = tileCount.Address,
            Tokens = tokens,
            TopK = topK,
            HiddenSize = size,
            Experts = experts,
            Capacity = capacity,
            TokensPerBlock = perBlock,
            PowerOfTwo = shape.PowerOfTwoScales ? 1 : 0,
            GlobalExperts = global,
        }, grid, stream.Raw, dynamicShared: shared);

        (int[] counts, int[] next) = Places(local, experts);
        var expectedTiles = new List<int[]>();
        for (int e = 0; e < experts; e++)
        {
            int own = DevicePlan.RowTiles(counts[e]), first = expectedTiles.Count;
            for (int i = 0; i < own; i++) expectedTiles.Add([e, first, own, next[e], counts[e]]);
        }
        int[] placed = Download<int>(rowOfSlot, stream, ids.Length), written = Download<int>(tiles, stream, plan.MostTiles * 8);
        Assert.True(Download<int>(tileCount, stream, DevicePlan.TileCounts).SequenceEqual([expectedTiles.Count, 0, 0, 0]), $"{where}: number of tiles, and of units given out");
        for (int t = 0; t < expectedTiles.Count; t++)
            Assert.True(written.AsSpan(t * 8, 5).SequenceEqual(expectedTiles[t]), $"{where}: tile {t} is {string.Join(' ', written[(t * 8)..(t * 8 + 5)])}");

        byte[] codes = Download<byte>(rows, stream, blocks * capacity * 128);
        float[] written32 = Download<float>(scales, stream, blocks * capacity), expectedScales = new float[tokens * blocks];
        var expected = new Float8E4M3[x.Length];
        Quantizer.QuantizeHidden(x, size, format, expected, expectedScales);
        for (int slot = 0; slot < ids.Length; slot++)
        {
            int row = local[slot] < 0 ? -1 : next[local[slot]]++, token = slot / topK;
            Assert.True(placed[slot] == row, $"{where}: slot {slot} lies in row {placed[slot]}, expected {row}");
            if (row < 0) continue;
            byte[] ours = Gpu.Row(codes, blocks, capacity, 128, row);
            Assert.True(ours.AsSpan(0, size).SequenceEqual(MemoryMarshal.AsBytes(expected.AsSpan(token * size, size))), $"{where}: row {row}");
            Assert.True(ours.AsSpan(size).IndexOfAnyExcept((byte)0) < 0, $"{where}: row {row} beyond its end");
            for (int b = 0; b < blocks; b++) Assert.True(written32[b * capacity + row] == expectedScales[token * blocks + b], $"{where}: scale {b} of row {row}");
        }
    }

    /// <summary>The same of the wide kernels: BF16 rows as they are, or as the numbers that their MXFP8 codes stand for.</summary>
    [Theory, MemberData(nameof(Cases))]
    public void WideRowsLieWhereTheCpuPutsThem(string what, int tokens, int topK, int experts, int global)
    {
        using CudaBackend backend = Gpu.Open();
        foreach (bool mx in new[] { false, true })
            CompareWide(backend, $"{what}, T={tokens} K={topK} E={experts} of {global}, {(mx ? "MXFP8" : "BF16")}", what, tokens, topK, experts, global, mx);
    }

    private static void CompareWide(CudaBackend backend, string where, string what, int tokens, int topK, int experts, int global, bool mx)
    {
        (int[] ids, int[] map, int[] local) = Slots(what, tokens, topK, experts, global);
        BFloat16[] x = RandomLayer.Hidden(tokens, Hidden, 5);
        for (int i = 0; i < x.Length; i += 77) // what is rare: scales that take two factors, zeros, NaN and infinity
            x[i] = BFloat16.FromSingle((i % 5) switch { 0 => 1e7f * x[i].ToSingle(), 1 => -0.0f, 2 => 1e-38f, 3 => i % 3 == 0 ? float.NaN : 1e30f, _ => i % 2 == 0 ? float.NegativeInfinity : 1 });
        using ExpertWeights weights = RandomLayer.Zeros(WeightFormat.MxFp8, experts, Hidden, 128);
        ExpertsShape shape = ExpertsShape.From(new() { TopK = topK, GlobalExperts = global }, weights);
        var plan = new DevicePlan(shape, tokens);
        int blocks = plan.HiddenBlocks, capacity = plan.Capacity;

        using var kernels = new KernelSet(backend.Context());
        using var stream = new CudaStream(kernels.Context);
        using CudaContext.Scope scope = kernels.Context.Enter();
        using DeviceBuffer hidden = Upload(stream, x), idBuffer = Upload<int>(stream, ids), mapBuffer = Upload<int>(stream, [.. map, 0]);
        using DeviceBuffer rows = Room(stream, (long)blocks * capacity * 256), rowOfSlot = Room(stream, ids.Length * 4);
        using DeviceBuffer tiles = Room(stream, plan.MostTiles * 32), tileCount = Room(stream, DevicePlan.TileCounts * 4);
        (int grid, int perBlock, int shared) = plan.QuantizeGrid(kernels.Context.Multiprocessors);
        kernels.Wide.Permute.Launch(new WidePermuteArguments
        {
            Hidden = hidden.Address,
            Ids = idBuffer.Address,
            ExpertMap = map.Length == 0 ? 0 : mapBuffer.Address,
            Rows = rows.Address,
            RowOfSlot = rowOfSlot.Address,
            Tiles = tiles.Address,
            TileCount = tileCount.Address,
            Tokens = tokens,
            TopK = topK,
            HiddenSize = Hidden,
            Experts = experts,
            Capacity = capacity,
            TokensPerBlock = perBlock,
            GlobalExperts = global,
            Quantize = mx ? 1 : 0,
            TileRows = DevicePlan.WideTileRows(WeightFormat.MxFp8),
        }, grid, stream.Raw, dynamicShared: shared);

        (_, int[] next) = Places(local, experts);
        int[] placed = Download<int>(rowOfSlot, stream, ids.Length), counted = Download<int>(tileCount, stream, DevicePlan.TileCounts);
        Assert.True(counted.AsSpan(1).SequenceEqual([0, 0, 0]), $"{where}: units given out and stored are {string.Join(' ', counted[1..])}");
        byte[] written = Download<byte>(rows, stream, blocks * capacity * 256);
        BFloat16[] expected = mx ? ThroughMxFp8(x) : x;
        var ours = new BFloat16[blocks * 128];
        for (int slot = 0; slot < ids.Length; slot++)
        {
            int row = local[slot] < 0 ? -1 : next[local[slot]]++, token = slot / topK;
            Assert.True(placed[slot] == row, $"{where}: slot {slot} lies in row {placed[slot]}, expected {row}");
            if (row < 0) continue;
            Gpu.Row(written, 2 * blocks, capacity, 128, row).CopyTo(MemoryMarshal.AsBytes(ours.AsSpan()));
            BFloat16[] own = expected[(token * Hidden)..((token + 1) * Hidden)];
            bool infinite = mx && own[(Hidden / 32 * 32)..].All(value => float.IsNaN(value.ToSingle())); // then the rest of its last group is NaN too
            for (int c = 0; c < ours.Length; c++)
            {
                float value = c < Hidden ? own[c].ToSingle() : infinite && c / 32 == Hidden / 32 ? float.NaN : 0;
                bool same = float.IsNaN(value) ? float.IsNaN(ours[c].ToSingle()) : BitConverter.SingleToInt32Bits(value) == BitConverter.SingleToInt32Bits(ours[c].ToSingle());
                Assert.True(same, $"{where}: column {c} of token {token} is {ours[c]}, expected {value}, from {(c < Hidden ? x[token * Hidden + c].ToSingle() : 0)}");
            }
        }
    }

    private static BFloat16[] ThroughMxFp8(BFloat16[] x)
    {
        int tokens = x.Length / Hidden, groups = Formats.Blocks(Hidden, 32);
        var codes = new Float8E4M3[x.Length];
        var scales = new ScaleE8M0[tokens * groups];
        Quantizer.QuantizeHidden(x, Hidden, codes, scales);
        return [.. x.Select((_, i) => BFloat16.FromSingle(codes[i].ToSingle() * scales[i / Hidden * groups + i % Hidden / 32].ToSingle()))];
    }

    /// <summary>Ids of a case, the map where some experts are elsewhere, and the local experts.</summary>
    private static (int[] Ids, int[] Map, int[] Local) Slots(string what, int tokens, int topK, int experts, int global)
    {
        int[] ids = Ids(what, tokens, topK, global), local = new int[ids.Length];
        int[] map = experts == global ? [] : [.. Enumerable.Range(0, global).Select(e => e % 8 == 3 ? e / 8 : -1)];
        Permutation.MapIds(ids.AsSpan(), map, global, topK, local);
        return (ids, map, local);
    }

    /// <summary>Rows of each expert, and where they begin: at multiples of 8.</summary>
    private static (int[] Counts, int[] First) Places(int[] local, int experts)
    {
        int[] counts = new int[experts], first = new int[experts];
        Permutation.Count(local, counts);
        for (int e = 1; e < experts; e++) first[e] = first[e - 1] + (counts[e - 1] + 7) / 8 * 8;
        return (counts, first);
    }

    private static int[] Ids(string what, int tokens, int topK, int experts) => what switch
    {
        "one expert" => [.. Enumerable.Repeat(experts - 2, tokens * topK)],
        "nothing" => [.. Enumerable.Repeat(-1, tokens * topK)],
        "the same experts for all" => [.. Enumerable.Range(0, tokens * topK).Select(i => i % topK)],
        "dropped" => RandomLayer.Ids(tokens, topK, experts, 3, dropped: 0.3),
        _ => RandomLayer.Ids(tokens, topK, experts, 3),
    };
}
