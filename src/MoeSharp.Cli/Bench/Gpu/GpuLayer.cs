namespace MoeSharp.Cli;

/// <summary>A layer's experts on a GPU, ready to be called with device memory.</summary>
internal sealed class GpuLayer : IDisposable
{
    private readonly IDisposable[] _held;

    private GpuLayer(string name, ExpertsShape shape, ExpertWeights sizes, int[] expertMap, DeviceCall call, params IDisposable[] held)
    {
        Name = name;
        Shape = shape;
        Sizes = sizes;
        ExpertMap = expertMap;
        Call = call;
        _held = held;
    }

    /// <summary>As reports call it.</summary>
    public string Name { get; }

    public ExpertsShape Shape { get; }

    /// <summary>Only sizes: their values need not be those on the GPU.</summary>
    public ExpertWeights Sizes { get; }

    /// <summary>[global experts], empty when all are local.</summary>
    public int[] ExpertMap { get; }

    public DeviceCall Call { get; }

    /// <summary>Random weights of a shape, made on the GPU.</summary>
    /// <exception cref="UnsupportedException">The backend does not do this.</exception>
    /// <exception cref="CudaException">They do not fit.</exception>
    public static GpuLayer Random(BenchShape shape, WeightFormat format, ActivationFormat? activations, CudaBackend backend, RandomTables tables)
    {
        ExpertWeights sizes = SyntheticWeights.OnlySizes(shape, format);
        DeviceWeights? weights = null;
        try
        {
            var experts = ExpertsShape.From(BenchLayer.Options(shape, activations), sizes);
            FusedExperts.Supports(backend, experts).ThrowIfNot();
            KernelSet kernels = backend.Kernels();
            weights = DeviceWeights.Allocate(kernels.Context, sizes);
            tables.Fill(weights, shape, format);
            return new(shape.Name, experts, sizes, shape.ExpertMap(), new DeviceCall(kernels, weights, experts), weights, sizes);
        }
        catch
        {
            weights?.Dispose();
            sizes.Dispose();
            throw;
        }
    }

    /// <summary>Takes over a layer whose weights are on the GPU already.</summary>
    public static GpuLayer Of(BenchLayer layer) =>
        new(layer.Name, layer.Shape, layer.Weights, layer.ExpertMap, ((CudaExperts)layer.Experts.Prepared).Rent(), layer);

    /// <summary>The same of one that its owner keeps.</summary>
    public static GpuLayer Of(ExplainCase layer) =>
        new(layer.Name, layer.Experts.Shape, layer.Weights, layer.ExpertMap, ((CudaExperts)layer.Experts.Prepared).Rent());

    public void Dispose()
    {
        Call.Dispose();
        foreach (IDisposable owned in _held) owned.Dispose();
    }
}
