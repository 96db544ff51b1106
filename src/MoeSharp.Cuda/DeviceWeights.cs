namespace MoeSharp;

/// <summary>The weights of E experts on one GPU, in the layout that the GEMMs stream (kernels/include/arguments.cuh).</summary>
internal sealed class DeviceWeights : IDisposable
{
    private readonly WeightSizes _sizes;
    private DeviceBuffer? _biases;

    /// <exception cref="CudaException">Not enough memory; nothing stays allocated.</exception>
    /// <exception cref="CheckpointException">A weight is NaN and <paramref name="allowNaN"/> is false.</exception>
    /// <exception cref="OperationCanceledException">Nothing stays allocated.</exception>
    internal DeviceWeights(KernelSet kernels, ExpertWeights weights, bool allowNaN, LoadContext context = default, ActivationFormat activations = ActivationFormat.Fp8)
        : this(kernels.Context, weights)
    {
        try
        {
            IsWide = WideKernels.Serve(weights.Format, activations);
            if (_sizes.GateUpScales > 0) UploadScales(kernels.Context, weights);
            using var upload = new WeightUpload(kernels, weights, this, context);
            (bool hasNaN, HasLargeScales) = upload.Run();
            if (hasNaN && !allowNaN) NaNCodes.Check(weights);
            if (IsWide && (hasNaN || weights.Biases is not null)) UploadBiases(kernels.Context, weights, hasNaN);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private DeviceWeights(CudaContext context, ExpertWeights sizes)
    {
        _sizes = new(sizes);
        Memory = new DeviceBuffer(context, _sizes.Total, $"the weights of {sizes.Count} experts");
        GateUp = new(Memory.Address, _sizes.GateUp);
        Down = new(GateUp.Address + (ulong)GateUp.Bytes, _sizes.Down);
        GateUpScales = new(Down.Address + (ulong)Down.Bytes, _sizes.GateUpScales);
        DownScales = new(GateUpScales.Address + (ulong)GateUpScales.Bytes, _sizes.DownScales);
        GateUpBiases = new(DownScales.Address + (ulong)DownScales.Bytes, _sizes.GateUpBiases);
        DownBiases = new(GateUpBiases.Address + (ulong)GateUpBiases.Bytes, _sizes.DownBiases);
    }

    /// <summary>Memory only, to be filled by who asks; of <paramref name="sizes"/> nothing but sizes is read.</summary>
    internal static DeviceWeights Allocate(CudaContext context, ExpertWeights sizes) => new(context, sizes);

    internal int HiddenBlocks => _sizes.HiddenBlocks;
    internal int IntermediateBlocks => _sizes.IntermediateBlocks;

    /// <summary>[E][2 ⌈I/128⌉ blocks][passes ⌈H/128⌉][128 rows][128].</summary>
    internal DeviceRange GateUp { get; }

    /// <summary>[E][⌈H/128⌉ blocks][⌈I/128⌉][128 rows][128].</summary>
    internal DeviceRange Down { get; }

    internal DeviceRange GateUpScales { get; }
    internal DeviceRange DownScales { get; }
    internal DeviceRange GateUpBiases { get; private set; }
    internal DeviceRange DownBiases { get; private set; }

    /// <summary>Laid out for the wide kernels (kernels/include/wide_arguments.cuh).</summary>
    internal bool IsWide { get; }

    /// <summary>Whether some MXFP8 scale takes two factors (kernels/include/wide_decode.cuh).</summary>
    internal bool HasLargeScales { get; }

    /// <summary>Bytes of 128 rows of 128 values.</summary>
    internal int BlockBytes => _sizes.Block;

    /// <summary>All of it.</summary>
    internal DeviceBuffer Memory { get; }

    private void UploadScales(CudaContext context, ExpertWeights weights)
    {
        using var stream = new CudaStream(context);
        Memory.Upload<float>(GateUpScaleTable(weights), stream, _sizes.GateUp + _sizes.Down);
        Memory.Upload<float>(DownScaleTable(weights), stream, _sizes.GateUp + _sizes.Down + _sizes.GateUpScales);
        stream.Synchronize();
    }

    /// <summary>Into their place, or into memory made for them where only NaN codes brought them about.</summary>
    private void UploadBiases(CudaContext context, ExpertWeights weights, bool findNaN)
    {
        float[] gateUp = WideBiases.GateUp(weights, findNaN), down = WideBiases.Down(weights, findNaN);
        using var stream = new CudaStream(context);
        long first = _sizes.GateUp + _sizes.Down + _sizes.GateUpScales + _sizes.DownScales, bytes = sizeof(float) * (long)gateUp.Length;
        if (weights.Biases is null)
        {
            _biases = new DeviceBuffer(context, bytes + sizeof(float) * (long)down.Length, "the rows of weights that are NaN");
            GateUpBiases = new(_biases.Address, bytes);
            DownBiases = new(_biases.Address + (ulong)bytes, sizeof(float) * (long)down.Length);
            first = 0;
        }
        (_biases ?? Memory).Upload<float>(gateUp, stream, first);
        (_biases ?? Memory).Upload<float>(down, stream, first + bytes);
        stream.Synchronize();
    }

    /// <summary>[E][⌈I/128⌉][passes][⌈H/128⌉][4]: gate, up, 0, 0. The second pass has the scales of the next row of blocks.</summary>
    private float[] GateUpScaleTable(ExpertWeights weights)
    {
        var table = new float[_sizes.GateUpScales / sizeof(float)];
        int at = 0;
        for (int e = 0; e < weights.Count; e++)
            for (int block = 0; block < IntermediateBlocks; block++)
                for (int k = 0; k < _sizes.Passes * HiddenBlocks; k++, at += 4)
                    (table[at], table[at + 1]) = (Scale(weights.Gate[e], block, k), Scale(weights.Up[e], block, k));
        return table;

        float Scale(BlockScaledMatrix matrix, int block, int k) =>
            block + k / HiddenBlocks < matrix.ScaleRows ? matrix.ScaleAt(block + k / HiddenBlocks, k % HiddenBlocks) : 0; // of no rows
    }

    /// <summary>[E][⌈⌈H/128⌉/2⌉][⌈I/128⌉][4]: two blocks of 128 rows, 0, 0.</summary>
    private float[] DownScaleTable(ExpertWeights weights)
    {
        int units = (HiddenBlocks + 1) / 2;
        var table = new float[_sizes.DownScales / sizeof(float)];
        int at = 0;
        for (int e = 0; e < weights.Count; e++)
            for (int unit = 0; unit < units; unit++)
                for (int k = 0; k < IntermediateBlocks; k++, at += 4)
                    for (int half = 0; half < 2 && 2 * unit + half < HiddenBlocks; half++) table[at + half] = weights.Down[e].ScaleAt(2 * unit + half, k);
        return table;
    }

    public void Dispose()
    {
        _biases?.Dispose();
        Memory.Dispose();
    }
}
