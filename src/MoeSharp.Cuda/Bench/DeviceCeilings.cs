namespace MoeSharp;

/// <summary>What a GPU reaches at best, measured: each figure is the best of all rounds.</summary>
internal sealed class DeviceCeilings : IDisposable
{
    private const double LongEnough = 2000; // microseconds of products: shorter runs are mostly start and end, longer ones meet the power limit
    private readonly BenchKernels _kernels;
    private readonly DeviceBuffer _memory, _codes, _sums;
    private readonly CudaStream _stream;
    private readonly CudaEvent _start, _end;
    private int _turns = 1;

    /// <param name="kernels">Of the GPU.</param>
    /// <param name="bytes">To read and to write; much more than its caches hold.</param>
    /// <param name="table">Words from which E4M3 codes are drawn, see <see cref="BenchKernels.TableLength"/>.</param>
    internal DeviceCeilings(BenchKernels kernels, long bytes, DeviceBuffer table)
    {
        _kernels = kernels;
        _memory = new DeviceBuffer(kernels.Context, bytes, "measuring memory");
        _codes = new DeviceBuffer(kernels.Context, kernels.ProductBytes, "operands of products");
        _sums = new DeviceBuffer(kernels.Context, sizeof(float) * (long)kernels.ProductSums, "sums of products");
        _stream = new CudaStream(kernels.Context);
        _start = new CudaEvent(kernels.Context);
        _end = new CudaEvent(kernels.Context);
        kernels.Randomize(new(_codes.Address, _codes.Bytes), table, valueBytes: 1, seed: 1, _stream);
    }

    /// <summary>With the copy engine into shared memory, as weights are streamed.</summary>
    internal double ReadGBPerS { get; private set; }

    internal double FillGBPerS { get; private set; }

    /// <summary>Read and written bytes together.</summary>
    internal double CopyGBPerS { get; private set; }

    /// <summary>Dense FP8 products whose operands lie in shared memory.</summary>
    internal double Fp8TFlopPerS { get; private set; }

    /// <summary>Measures each once.</summary>
    internal void Round()
    {
        FillGBPerS = Math.Max(FillGBPerS, _memory.Bytes / Time(() => _kernels.Fill(_memory, _stream)) / 1e3);
        ReadGBPerS = Math.Max(ReadGBPerS, _memory.Bytes / Time(() => _kernels.Read(_memory, _stream)) / 1e3);
        CopyGBPerS = Math.Max(CopyGBPerS, _memory.Bytes / Time(() => _kernels.CopyHalf(_memory, _stream)) / 1e3);
        double products = Time(() => _kernels.Multiply(_codes, _sums, _turns, _stream));
        while (products < LongEnough)
        {
            _turns *= 2;
            products = Time(() => _kernels.Multiply(_codes, _sums, _turns, _stream));
        }
        Fp8TFlopPerS = Math.Max(Fp8TFlopPerS, _turns * (double)_kernels.ProductFlops / products / 1e6);
    }

    private double Time(Action queue)
    {
        _start.Record(_stream);
        queue();
        _end.Record(_stream);
        return _end.MicrosecondsSince(_start);
    }

    public void Dispose()
    {
        _end.Dispose();
        _start.Dispose();
        _stream.Dispose();
        _sums.Dispose();
        _codes.Dispose();
        _memory.Dispose();
    }
}
