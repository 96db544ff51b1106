using System.Diagnostics;
using System.Text;

namespace MoeSharp;

/// <summary>A cubin loaded into a context.</summary>
internal sealed unsafe class CudaModule : ContextHandle
{
    internal CudaModule(CudaContext context, ReadOnlySpan<byte> cubin) : base(context)
    {
        using CudaContext.Scope scope = context.Enter();
        nint module;
        fixed (byte* image = cubin) Native.Check(Native.cuModuleLoadData(&module, image));
        Own(module);
    }

    /// <summary>A kernel of the module; it lives as long as the module does.</summary>
    /// <param name="name">Entry point.</param>
    /// <param name="threads">Threads of a block.</param>
    /// <param name="staged">Its file exports how much dynamic shared memory it needs, as NAME_shared.</param>
    internal CudaKernel Kernel(string name, int threads, bool staged = false)
    {
        using CudaContext.Scope scope = Context.Enter();
        nint function;
        fixed (byte* utf8 = Encoding.UTF8.GetBytes(name + '\0')) Native.Check(Native.cuModuleGetFunction(&function, Raw, utf8));
        int shared = staged ? Constant(name + "_shared") : 0;
        const int maximumDynamicShared = 8;
        if (shared > 48 * 1024) Native.Check(Native.cuFuncSetAttribute(function, maximumDynamicShared, shared));
        return new(this, function, threads, shared);
    }

    private int Constant(string name)
    {
        ulong pointer;
        nuint bytes;
        fixed (byte* utf8 = Encoding.UTF8.GetBytes(name + '\0')) Native.Check(Native.cuModuleGetGlobal_v2(&pointer, &bytes, Raw, utf8));
        int value;
        Native.Check(Native.cuMemcpyDtoH_v2(&value, pointer, sizeof(int)));
        return value;
    }

    private protected override int Release(nint raw) => Native.cuModuleUnload(raw);
}

/// <summary>An entry point: one argument struct by value, a fixed number of threads, shared memory as the kernel file says.</summary>
internal sealed unsafe class CudaKernel(CudaModule module, nint function, int threads, int sharedBytes)
{
    internal int SharedBytes => sharedBytes;

    /// <summary>Queues a launch that may start before the kernel ahead of it ends: all our kernels wait for it themselves. Allocates nothing.</summary>
    internal void Launch<T>(in T argument, int blocks, nint stream, int cluster = 1, int dynamicShared = 0) where T : unmanaged
    {
        LaunchAttribute* attributes = stackalloc LaunchAttribute[2];
        attributes[0] = new() { Id = LaunchAttribute.ProgrammaticStreamSerialization, X = 1 };
        attributes[1] = new() { Id = LaunchAttribute.ClusterDimension, X = (uint)cluster, Y = 1, Z = 1 };
        var config = new LaunchConfig
        {
            GridX = (uint)blocks,
            GridY = 1,
            GridZ = 1,
            BlockX = (uint)threads,
            BlockY = 1,
            BlockZ = 1,
            SharedBytes = (uint)(dynamicShared > 0 ? dynamicShared : sharedBytes),
            Stream = stream,
            Attributes = attributes,
            AttributeCount = cluster > 1 ? 2u : 1u,
        };
        fixed (T* pointer = &argument)
        {
            void* arguments = pointer;
            long started = LaunchClock.IsOn ? Stopwatch.GetTimestamp() : 0;
            Native.Check(Native.cuLaunchKernelEx(&config, function, &arguments, null));
            if (started != 0) LaunchClock.Add(Stopwatch.GetTimestamp() - started);
        }
        GC.KeepAlive(module);
    }
}

/// <summary>How long this thread spent in the driver's launch calls, where somebody wants to know.</summary>
internal static class LaunchClock
{
    [ThreadStatic] private static long t_ticks;

    internal static bool IsOn { get; set; }

    internal static TimeSpan Elapsed => Stopwatch.GetElapsedTime(0, t_ticks);

    internal static void Add(long ticks) => t_ticks += ticks;
}
