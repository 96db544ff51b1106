namespace MoeSharp;

/// <summary>The kernels that only measure or fill, on a stream of the caller; loaded when somebody measures.</summary>
internal sealed class BenchKernels
{
    /// <summary>Values of the table that random values are drawn from.</summary>
    internal const int TableLength = 4096;

    private const int Chunk = 16; // bytes of a vector
    private const int ReadThreads = 32, WriteThreads = 512, ProductThreads = 512, RandomThreads = 256;
    private const int WarpgroupFlops = 2 * 64 * 128 * 128; // of one warpgroup, per stage
    private const int ProductStages = 4; // as in kernels/ceilings.cu
    private readonly CudaKernel _read, _write, _product, _random;

    internal BenchKernels(KernelSet kernels)
    {
        Context = kernels.Context;
        CudaModule ceilings = kernels.Load("ceilings");
        _read = ceilings.Kernel("ceiling_read", ReadThreads, staged: true);
        _write = ceilings.Kernel("ceiling_write", WriteThreads);
        _product = ceilings.Kernel("ceiling_fp8", ProductThreads, staged: true);
        _random = kernels.Load("random").Kernel("random_values", RandomThreads);
    }

    internal CudaContext Context { get; }

    /// <summary>Bytes of codes that <see cref="Multiply"/> reads.</summary>
    internal int ProductBytes => _product.SharedBytes;

    /// <summary>Floats that <see cref="Multiply"/> writes.</summary>
    internal int ProductSums => Context.Multiprocessors * ProductThreads;

    /// <summary>Operations of one turn of <see cref="Multiply"/>.</summary>
    internal long ProductFlops => (long)Context.Multiprocessors * ProductThreads / 128 * ProductStages * WarpgroupFlops;

    /// <summary>Reads whole pieces of 16 KB and drops them.</summary>
    internal void Read(DeviceBuffer from, CudaStream stream)
    {
        using CudaContext.Scope scope = Context.Enter();
        _read.Launch(new MemoryArguments { From = from.Address, Bytes = (ulong)from.Bytes }, Context.Multiprocessors, stream.Raw);
    }

    /// <summary>Writes a constant.</summary>
    internal void Fill(DeviceBuffer to, CudaStream stream) => Write(new MemoryArguments { To = to.Address, Bytes = (ulong)to.Bytes }, stream);

    /// <summary>Copies the first half onto the second.</summary>
    internal void CopyHalf(DeviceBuffer buffer, CudaStream stream)
    {
        ulong half = (ulong)buffer.Bytes / 2;
        Write(new MemoryArguments { From = buffer.Address, To = buffer.Address + half, Bytes = half }, stream);
    }

    /// <summary>FP8 products from shared memory on all multiprocessors.</summary>
    internal void Multiply(DeviceBuffer codes, DeviceBuffer sums, int turns, CudaStream stream)
    {
        using CudaContext.Scope scope = Context.Enter();
        _product.Launch(new ProductArguments { Codes = codes.Address, Sums = sums.Address, Turns = turns }, Context.Multiprocessors, stream.Raw);
    }

    /// <summary>Fills with values of so many bytes, each drawn from a table of <see cref="TableLength"/> words.</summary>
    internal void Randomize(DeviceRange to, DeviceBuffer table, int valueBytes, long seed, CudaStream stream) =>
        Randomize(to, new() { Table = table.Address, ValueBytes = valueBytes, Period = 1 }, seed, stream);

    /// <summary>Same with bytes, of which those at the end of each period are drawn from another table.</summary>
    internal void Randomize(DeviceRange to, DeviceBuffer table, DeviceBuffer tailTable, int valueBytes, int periodBytes, int bodyBytes, long seed, CudaStream stream) =>
        Randomize(to, new() { Table = table.Address, ValueBytes = valueBytes, TailTable = tailTable.Address, Period = periodBytes / Chunk, Body = bodyBytes / Chunk }, seed, stream);

    private void Randomize(DeviceRange to, RandomArguments arguments, long seed, CudaStream stream)
    {
        using CudaContext.Scope scope = Context.Enter();
        arguments = arguments with { To = to.Address, Chunks = (ulong)to.Bytes / Chunk, Seed = (ulong)seed };
        if (arguments.Chunks > 0) _random.Launch(arguments, Blocks(arguments.Chunks, RandomThreads), stream.Raw);
    }

    private void Write(in MemoryArguments arguments, CudaStream stream)
    {
        using CudaContext.Scope scope = Context.Enter();
        _write.Launch(arguments, Blocks(arguments.Bytes / Chunk, WriteThreads), stream.Raw);
    }

    private int Blocks(ulong chunks, int threads) => (int)Math.Min((chunks + (ulong)threads - 1) / (ulong)threads, 16ul * (ulong)Context.Multiprocessors);
}
