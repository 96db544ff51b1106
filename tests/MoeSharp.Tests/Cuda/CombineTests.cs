using static MoeSharp.Tests.Gpu;

namespace MoeSharp.Tests;

/// <summary>The last step by itself: one FP32 chain per element in the order of slots, rounded once, whatever the shape of the work.</summary>
[Trait("Category", "Cuda")]
public class CombineTests
{
    [Theory]
    [InlineData(1, 1, 8)]
    [InlineData(3, 8, 256)]
    [InlineData(37, 8, 2056)] // a part and eight elements
    [InlineData(9, 5, 1030)]  // no multiple of eight
    [InlineData(5, 40, 640)]  // more slots than lanes
    [InlineData(11, 32, 512)]
    [InlineData(2, 33, 7168)]
    public void SumsAreThoseOfAChain(int tokens, int topK, int hidden)
    {
        using CudaBackend backend = Open();
        using var kernels = new KernelSet(backend.Context());
        using var stream = new CudaStream(kernels.Context);
        using CudaContext.Scope scope = kernels.Context.Enter();
        var random = new Random(tokens + topK + hidden);
        int slots = tokens * topK, blocks = Formats.Blocks(hidden, 128), capacity = (slots + 15) / 8 * 8, sharedCapacity = (tokens + 7) / 8 * 8;
        BFloat16[] results = RandomLayer.Hidden(capacity, blocks * 128, 7), shared = RandomLayer.Hidden(sharedCapacity, blocks * 128, 8);
        int[] rows = [.. Enumerable.Range(0, capacity).OrderBy(_ => random.Next()).Take(slots).Select(row => random.Next(3) == 0 ? -1 : row)];
        float[] weights = [.. rows.Select(_ => random.NextSingle() - 0.25f)], sharedWeights = [.. Enumerable.Range(0, tokens).Select(_ => random.NextSingle())];
        using DeviceBuffer resultBuffer = Upload(stream, Stored(results, blocks, capacity)), sharedBuffer = Upload(stream, Stored(shared, blocks, sharedCapacity));
        using DeviceBuffer rowBuffer = Upload(stream, rows), weightBuffer = Upload(stream, weights), sharedWeightBuffer = Upload(stream, sharedWeights);
        for (int way = 0; way < 24; way++)
        {
            bool many = way % 2 == 1, isF32 = way / 2 % 2 == 1, hasWeights = way / 4 % 2 == 1;
            int hasShared = way / 8;
            using DeviceBuffer output = Room(stream, (long)tokens * hidden * (isF32 ? 4 : 2));
            int warps = tokens * Formats.Blocks(hidden, many ? 512 : 256);
            (many ? kernels.CombineMany : kernels.Combine).Launch(new CombineArguments
            {
                Results = resultBuffer.Address,
                RowOfSlot = rowBuffer.Address,
                Weights = hasWeights ? weightBuffer.Address : 0,
                Output = output.Address,
                SharedResults = hasShared > 0 ? sharedBuffer.Address : 0,
                SharedWeights = hasShared > 1 ? sharedWeightBuffer.Address : 0,
                Tokens = tokens,
                TopK = topK,
                HiddenSize = hidden,
                Capacity = capacity,
                OutputF32 = isF32 ? 1 : 0,
                SharedCapacity = sharedCapacity,
            }, Formats.Blocks(warps, 8), stream.Raw);
            float[] sums = isF32 ? Download<float>(output, stream, tokens * hidden) : [.. Download<BFloat16>(output, stream, tokens * hidden).Select(value => value.ToSingle())];
            for (int token = 0; token < tokens; token++)
                for (int c = 0; c < hidden; c++)
                {
                    float sum = 0;
                    for (int k = token * topK; k < (token + 1) * topK; k++)
                        if (rows[k] >= 0) sum = MathF.FusedMultiplyAdd(results[rows[k] * blocks * 128 + c].ToSingle(), hasWeights ? weights[k] : 1, sum);
                    if (hasShared > 0) sum = MathF.FusedMultiplyAdd(shared[token * blocks * 128 + c].ToSingle(), hasShared > 1 ? sharedWeights[token] : 1, sum);
                    float expected = isF32 ? sum : BFloat16.FromSingle(sum).ToSingle(), ours = sums[token * hidden + c];
                    Assert.True(BitConverter.SingleToInt32Bits(ours) == BitConverter.SingleToInt32Bits(expected),
                        $"T={tokens} K={topK} H={hidden}, {(many ? "512" : "256")} elements a warp, {(isF32 ? "FP32" : "BF16")}, weights {hasWeights}, shared {hasShared}: element {c} of token {token} is {ours}, expected {expected}");
                }
        }
    }

    /// <summary>Rows as Down stores them: [blocks][capacity][128], 16-byte pieces swizzled by the row.</summary>
    private static BFloat16[] Stored(BFloat16[] rows, int blocks, int capacity)
    {
        var stored = new BFloat16[rows.Length];
        for (int row = 0; row < capacity; row++)
            for (int c = 0; c < blocks * 128; c++)
                stored[(c / 128 * capacity + row) * 128 + ((c % 128 / 8) ^ (row & 7)) * 8 + c % 8] = rows[row * blocks * 128 + c];
        return stored;
    }
}
