namespace MoeSharp;

/// <summary>The weights of E experts on one GPU, in the layout that the GEMMs stream (kernels/include/arguments.cuh).</summary>
internal sealed class DeviceWeights : IDisposable
{
    private const int BlockBytes = 128 * 128;

    internal DeviceWeights(KernelSet kernels, ExpertWeights weights, bool allowNaN)
    {
        CudaContext context = kernels.Context;
        HiddenBlocks = Formats.Blocks(weights.HiddenSize, 128);
        IntermediateBlocks = Formats.Blocks(weights.IntermediateSize, 128);
        long matrixBytes = (long)HiddenBlocks * IntermediateBlocks * BlockBytes;
        GateUp = new DeviceBuffer(context, 2 * weights.Count * matrixBytes, "gate and up weights");
        Down = new DeviceBuffer(context, weights.Count * matrixBytes, "down weights");
        float[] gateUpScales = GateUpScaleTable(weights), downScales = DownScaleTable(weights);
        GateUpScales = new DeviceBuffer(context, 4L * gateUpScales.Length, "weight scales");
        DownScales = new DeviceBuffer(context, 4L * downScales.Length, "weight scales");
        using var stream = new CudaStream(context);
        GateUpScales.Upload<float>(gateUpScales, stream);
        DownScales.Upload<float>(downScales, stream);
        if (Upload(kernels, weights, stream) > 0 && !allowNaN) NaNCodes.Check(weights);
    }

    internal int HiddenBlocks { get; }
    internal int IntermediateBlocks { get; }
    internal DeviceBuffer GateUp { get; }
    internal DeviceBuffer Down { get; }
    internal DeviceBuffer GateUpScales { get; }
    internal DeviceBuffer DownScales { get; }

    /// <summary>Bytes on the device.</summary>
    internal long Bytes => GateUp.Bytes + Down.Bytes + GateUpScales.Bytes + DownScales.Bytes;

    /// <summary>Copies expert by expert through staging memory; returns how many codes are NaN.</summary>
    private ulong Upload(KernelSet kernels, ExpertWeights weights, CudaStream stream)
    {
        long matrix = (long)weights.HiddenSize * weights.IntermediateSize, padded = (matrix + 255) / 256 * 256;
        using var staging = new DeviceBuffer(kernels.Context, 3 * padded, "staging of weights");
        using var found = new DeviceBuffer(kernels.Context, 16, "the count of NaN codes");
        found.Upload<ulong>([0, ulong.MaxValue], stream);
        long blocks = (long)HiddenBlocks * IntermediateBlocks * BlockBytes;
        for (int e = 0; e < weights.Count; e++)
        {
            Stage(weights.Gate[e], staging, 0, stream);
            Stage(weights.Up[e], staging, padded, stream);
            Stage(weights.Down[e], staging, 2 * padded, stream);
            Prepare(kernels, stream, new()
            {
                First = staging.Address,
                Second = staging.Address + (ulong)padded,
                To = GateUp.Address + (ulong)(2 * e * blocks),
                NaN = found.Address,
                Rows = weights.IntermediateSize,
                Columns = weights.HiddenSize,
                Blocks = 2 * IntermediateBlocks,
                KBlocks = HiddenBlocks,
            });
            Prepare(kernels, stream, new()
            {
                First = staging.Address + (ulong)(2 * padded),
                To = Down.Address + (ulong)(e * blocks),
                NaN = found.Address,
                Rows = weights.HiddenSize,
                Columns = weights.IntermediateSize,
                Blocks = HiddenBlocks,
                KBlocks = IntermediateBlocks,
            });
        }
        Span<ulong> counts = stackalloc ulong[2];
        found.Download(counts, stream);
        return counts[0];
    }

    private static void Prepare(KernelSet kernels, CudaStream stream, in PrepareArguments arguments)
    {
        using CudaContext.Scope scope = kernels.Context.Enter();
        long chunks = (long)arguments.Blocks * arguments.KBlocks * 1024;
        kernels.Prepare.Launch(arguments, (int)Math.Min((chunks + 255) / 256, 16 * kernels.Context.Multiprocessors), stream.Raw);
    }

    private static void Stage(BlockScaledMatrix matrix, DeviceBuffer staging, long offset, CudaStream stream)
    {
        for (int r = 0; r < matrix.Rows; r += RowsAtOnce(matrix))
        {
            int rows = Math.Min(RowsAtOnce(matrix), matrix.Rows - r);
            staging.Upload(Rows(matrix, r, rows), stream, offset + (long)r * matrix.Columns);
        }
    }

    /// <summary>Contiguous rows travel together, in pieces that a span can hold.</summary>
    private static int RowsAtOnce(BlockScaledMatrix matrix) =>
        matrix.Storage.RowBytes == matrix.Columns ? Math.Max(1, (1 << 30) / matrix.Columns) : 1;

    private static unsafe ReadOnlySpan<byte> Rows(BlockScaledMatrix matrix, int first, int count) =>
        new(matrix.Storage.Values + first * matrix.Storage.RowBytes, count * matrix.Columns);

    /// <summary>[E][⌈I/128⌉][⌈H/128⌉][4]: gate, up, 0, 0.</summary>
    private float[] GateUpScaleTable(ExpertWeights weights)
    {
        var table = new float[weights.Count * IntermediateBlocks * HiddenBlocks * 4];
        int at = 0;
        for (int e = 0; e < weights.Count; e++)
            for (int block = 0; block < IntermediateBlocks; block++)
                for (int k = 0; k < HiddenBlocks; k++, at += 4)
                    (table[at], table[at + 1]) = (weights.Gate[e].ScaleAt(block, k), weights.Up[e].ScaleAt(block, k));
        return table;
    }

    /// <summary>[E][⌈⌈H/128⌉/2⌉][⌈I/128⌉][4]: two blocks of 128 rows, 0, 0.</summary>
    private float[] DownScaleTable(ExpertWeights weights)
    {
        int units = (HiddenBlocks + 1) / 2;
        var table = new float[weights.Count * units * IntermediateBlocks * 4];
        int at = 0;
        for (int e = 0; e < weights.Count; e++)
            for (int unit = 0; unit < units; unit++)
                for (int k = 0; k < IntermediateBlocks; k++, at += 4)
                    for (int half = 0; half < 2 && 2 * unit + half < HiddenBlocks; half++) table[at + half] = weights.Down[e].ScaleAt(2 * unit + half, k);
        return table;
    }

    public void Dispose()
    {
        GateUp.Dispose();
        Down.Dispose();
        GateUpScales.Dispose();
        DownScales.Dispose();
    }
}
