namespace MoeSharp.Cli;

/// <summary>Inputs and outputs of a layer's calls on the GPU, as large as its largest call; smaller ones use the front.</summary>
internal sealed class GpuBuffers : IDisposable
{
    private readonly DeviceBuffer _hidden, _output, _ids, _weights, _map;
    private readonly int _mapLength;

    public GpuBuffers(CudaContext context, GpuLayer layer, int tokens, RandomTables tables)
    {
        long rows = 2L * tokens * layer.Shape.Hidden, slots = 4L * tokens * layer.Shape.TopK;
        _hidden = new DeviceBuffer(context, (rows + 15) / 16 * 16, "hidden states");
        _output = new DeviceBuffer(context, rows, "output");
        _ids = new DeviceBuffer(context, slots, "top-k ids");
        _weights = new DeviceBuffer(context, slots, "top-k weights");
        _map = new DeviceBuffer(context, 4L * layer.ExpertMap.Length, "the expert map");
        _mapLength = layer.ExpertMap.Length;
        tables.FillHidden(_hidden);
        _map.Upload<int>(layer.ExpertMap, layer.Call.Stream);
        layer.Call.Stream.Synchronize();
    }

    /// <summary>[T, K] of the next calls.</summary>
    public void Route(int[] ids, float[] weights, CudaStream stream)
    {
        _ids.Upload<int>(ids, stream);
        _weights.Upload<float>(weights, stream);
        stream.Synchronize();
    }

    /// <summary>Queues a call.</summary>
    public void Enqueue(DeviceCall call) =>
        call.Enqueue(_hidden.Address, _ids.Address, _mapLength == 0 ? 0 : _map.Address, _weights.Address, _output.Address, outputF32: false, call.Stream.Raw);

    /// <summary>[T, H] of the latest call, for tests.</summary>
    public BFloat16[] Output(int elements, CudaStream stream)
    {
        var output = new BFloat16[elements];
        _output.Download<BFloat16>(output, stream);
        return output;
    }

    public void Dispose()
    {
        foreach (DeviceBuffer buffer in (DeviceBuffer[])[_hidden, _output, _ids, _weights, _map]) buffer.Dispose();
    }
}
