namespace MoeSharp.Tests;

public class WeightUploadTests
{
    /// <summary>Sizes with several pieces for each matrix, with ragged ends, and with rows that no 16-byte read may cross.</summary>
    [Theory, Trait("Category", "Cuda")]
    [InlineData(3, 128, 128)]
    [InlineData(2, 4096, 320)]
    [InlineData(1, 200, 1300)]
    [InlineData(2, 9, 5)]
    public void EveryByteArrivesWhereTheKernelsReadIt(int experts, int hidden, int intermediate)
    {
        using CudaBackend backend = Gpu.Open();
        using ExpertWeights weights = RandomLayer.Weights(WeightFormat.Block128, experts, hidden, intermediate, 1);
        using var device = new DeviceWeights(backend.Kernels(), weights, allowNaN: false);
        byte[] gateUp = Read(device, device.GateUp), down = Read(device, device.Down);
        for (int e = 0; e < experts; e++)
        {
            long half = (long)device.HiddenBlocks * device.IntermediateBlocks * WeightSizes.BlockBytes;
            for (int r = 0; r < device.IntermediateBlocks * 128; r++)
            {
                int row = r / 8 * 16 + r % 8; // 8 rows of gate, the 8 rows of up for the same outputs
                Expect(weights.Gate[e], r, gateUp.AsSpan((int)(2 * e * half)), row, device.HiddenBlocks, $"gate of expert {e}");
                Expect(weights.Up[e], r, gateUp.AsSpan((int)(2 * e * half)), row + 8, device.HiddenBlocks, $"up of expert {e}");
            }
            for (int r = 0; r < device.HiddenBlocks * 128; r++) Expect(weights.Down[e], r, down.AsSpan((int)(e * half)), r, device.IntermediateBlocks, $"down of expert {e}");
        }
    }

    private static void Expect(BlockScaledMatrix matrix, int row, ReadOnlySpan<byte> blocks, int at, int kBlocks, string where)
    {
        ReadOnlySpan<byte> expected = row < matrix.Rows ? matrix.Row(row) : [];
        for (int column = 0; column < kBlocks * 128; column++)
        {
            int chunk = column % 128 / 16 ^ (at & 7), offset = ((at / 128 * kBlocks + column / 128) * 128 + at % 128) * 128 + chunk * 16 + column % 16;
            byte value = column < expected.Length ? expected[column] : (byte)0;
            if (value != blocks[offset]) Assert.Fail($"{where}, row {row}, column {column}: {blocks[offset]} instead of {value}");
        }
    }

    private static byte[] Read(DeviceWeights weights, DeviceRange range)
    {
        var bytes = new byte[range.Bytes];
        using var stream = new CudaStream(weights.Memory.Context);
        weights.Memory.Download(bytes.AsSpan(), stream, (long)(range.Address - weights.Memory.Address));
        return bytes;
    }
}
