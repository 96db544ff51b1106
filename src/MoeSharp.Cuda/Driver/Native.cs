using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>The driver's functions, as its header declares them. Nothing here runs before <see cref="DriverLibrary"/> has found the library.</summary>
internal static unsafe partial class Native
{
    private const string Library = DriverLibrary.Name;

    [LibraryImport(Library)] internal static partial int cuInit(uint flags);
    [LibraryImport(Library)] internal static partial int cuDriverGetVersion(int* version);
    [LibraryImport(Library)] internal static partial int cuGetErrorString(int error, byte** text);
    [LibraryImport(Library)] internal static partial int cuGetErrorName(int error, byte** text);
    [LibraryImport(Library)] internal static partial int cuDeviceGetCount(int* count);
    [LibraryImport(Library)] internal static partial int cuDeviceGet(int* device, int ordinal);
    [LibraryImport(Library)] internal static partial int cuDeviceGetName(byte* name, int length, int device);
    [LibraryImport(Library)] internal static partial int cuDeviceGetAttribute(int* value, int attribute, int device);
    [LibraryImport(Library)] internal static partial int cuDeviceTotalMem_v2(nuint* bytes, int device);

    [LibraryImport(Library)] internal static partial int cuDevicePrimaryCtxRetain(nint* context, int device);
    [LibraryImport(Library)] internal static partial int cuDevicePrimaryCtxRelease_v2(int device);
    [LibraryImport(Library)] internal static partial int cuCtxPushCurrent_v2(nint context);
    [LibraryImport(Library)] internal static partial int cuCtxPopCurrent_v2(nint* context);
    [LibraryImport(Library)] internal static partial int cuCtxGetCurrent(nint* context);
    [LibraryImport(Library)] internal static partial int cuCtxGetDevice(int* device);

    [LibraryImport(Library)] internal static partial int cuMemAlloc_v2(ulong* pointer, nuint bytes);
    [LibraryImport(Library)] internal static partial int cuMemFree_v2(ulong pointer);
    [LibraryImport(Library)] internal static partial int cuMemGetInfo_v2(nuint* free, nuint* total);
    [LibraryImport(Library)] internal static partial int cuMemHostAlloc(nint* pointer, nuint bytes, uint flags);
    [LibraryImport(Library)] internal static partial int cuMemFreeHost(nint pointer);
    [LibraryImport(Library)] internal static partial int cuMemcpyHtoDAsync_v2(ulong to, void* from, nuint bytes, nint stream);
    [LibraryImport(Library)] internal static partial int cuMemcpyDtoHAsync_v2(void* to, ulong from, nuint bytes, nint stream);
    [LibraryImport(Library)] internal static partial int cuMemsetD8Async(ulong to, byte value, nuint count, nint stream);

    [LibraryImport(Library)] internal static partial int cuPointerGetAttributes(uint count, int* attributes, void** data, ulong pointer);

    [LibraryImport(Library)] internal static partial int cuStreamCreate(nint* stream, uint flags);
    [LibraryImport(Library)] internal static partial int cuStreamDestroy_v2(nint stream);
    [LibraryImport(Library)] internal static partial int cuStreamSynchronize(nint stream);
    [LibraryImport(Library)] internal static partial int cuStreamWaitEvent(nint stream, nint @event, uint flags);
    [LibraryImport(Library)] internal static partial int cuStreamGetCtx(nint stream, nint* context);
    [LibraryImport(Library)] internal static partial int cuStreamIsCapturing(nint stream, int* status);
    [LibraryImport(Library)] internal static partial int cuStreamBeginCapture_v2(nint stream, int mode);
    [LibraryImport(Library)] internal static partial int cuStreamEndCapture(nint stream, nint* graph);
    [LibraryImport(Library)] internal static partial int cuGraphGetNodes(nint graph, nint* nodes, nuint* count);
    [LibraryImport(Library)] internal static partial int cuGraphInstantiateWithFlags(nint* executable, nint graph, ulong flags);
    [LibraryImport(Library)] internal static partial int cuGraphLaunch(nint executable, nint stream);
    [LibraryImport(Library)] internal static partial int cuGraphExecDestroy(nint executable);
    [LibraryImport(Library)] internal static partial int cuGraphDestroy(nint graph);

    [LibraryImport(Library)] internal static partial int cuEventCreate(nint* @event, uint flags);
    [LibraryImport(Library)] internal static partial int cuEventDestroy_v2(nint @event);
    [LibraryImport(Library)] internal static partial int cuEventRecord(nint @event, nint stream);
    [LibraryImport(Library)] internal static partial int cuEventSynchronize(nint @event);
    [LibraryImport(Library)] internal static partial int cuEventElapsedTime(float* milliseconds, nint first, nint last);

    [LibraryImport(Library)] internal static partial int cuModuleLoadData(nint* module, void* image);
    [LibraryImport(Library)] internal static partial int cuModuleUnload(nint module);
    [LibraryImport(Library)] internal static partial int cuModuleGetFunction(nint* function, nint module, byte* name);
    [LibraryImport(Library)] internal static partial int cuModuleGetGlobal_v2(ulong* pointer, nuint* bytes, nint module, byte* name);
    [LibraryImport(Library)] internal static partial int cuMemcpyDtoH_v2(void* to, ulong from, nuint bytes);
    [LibraryImport(Library)] internal static partial int cuFuncSetAttribute(nint function, int attribute, int value);
    [LibraryImport(Library)] internal static partial int cuLaunchKernelEx(LaunchConfig* config, nint function, void** arguments, void** extra);

    [LibraryImport(Library)]
    internal static partial int cuTensorMapEncodeTiled(TensorMap* map, int type, uint rank, ulong address, ulong* sizes, ulong* strides, uint* box,
        uint* elementStrides, int interleave, int swizzle, int promotion, int outOfBounds);

    /// <summary>Throws unless the driver said success.</summary>
    internal static void Check(int result, [CallerArgumentExpression(nameof(result))] string call = "")
    {
        if (result != 0) throw Failure(result, call);
    }

    internal static CudaException Failure(int result, string call)
    {
        int end = call.IndexOf('(');
        string function = (end < 0 ? call : call[..end]).Replace("Native.", "", StringComparison.Ordinal), words = Words(result);
        return CudaException.LosesContext(result)
            ? new($"A kernel failed earlier and the CUDA context is lost, as {function} reports: {words}; restart the process to use this GPU again "
                + "(in checked mode the message names the step).", result)
            : new($"{function} failed: {words}.", result);
    }

    /// <summary>What was found right after a step.</summary>
    internal static CudaException Failure(int result, Step step, CudaContext context) => new(
        $"Step {step} failed on GPU {context.Ordinal} and the CUDA context is lost: {Words(result)}; restart the process to use this GPU again.", result, step);

    private static string Words(int result)
    {
        byte* text = null, name = null;
        _ = cuGetErrorString(result, &text);
        _ = cuGetErrorName(result, &name);
        return $"{Marshal.PtrToStringUTF8((nint)text) ?? "unknown error"} ({Marshal.PtrToStringUTF8((nint)name) ?? result.ToString()})";
    }
}

/// <summary>CUlaunchConfig.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct LaunchConfig
{
    public uint GridX, GridY, GridZ, BlockX, BlockY, BlockZ, SharedBytes;
    public nint Stream;
    public LaunchAttribute* Attributes;
    public uint AttributeCount;
}

/// <summary>CUlaunchAttribute.</summary>
[StructLayout(LayoutKind.Sequential, Size = 72)]
internal struct LaunchAttribute
{
    internal const int ClusterDimension = 4, ProgrammaticStreamSerialization = 6;

    public int Id, Pad;
    public uint X, Y, Z;
}
