using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using MoeSharp;

using var gpu = new CudaBackend();
if (gpu.SupportsDevice().Reason is { } reason)
{
    Console.WriteLine(reason);
    return;
}
using var model = Checkpoint.Open("samples/tiny-qwen3-moe-fp8");
using var layer = MoeLayer.Load(model, layer: 1, new() { Backend = gpu });
const int tokens = 64;
int h = layer.HiddenSize, k = layer.Router.TopK;
BFloat16[] hidden = [.. Enumerable.Range(0, tokens * h).Select(i => (BFloat16)MathF.Sin(i))], output = new BFloat16[tokens * h], expected = new BFloat16[tokens * h];
int[] ids = new int[tokens * k], others = [.. Enumerable.Range(0, tokens * k).Select(i => i % 4 == 0 ? 7 : -1)];
float[] weights = new float[tokens * k];
layer.Router.Route(hidden, ids, weights);

// What a host application has already: the GPU's primary context, tensors, a stream.
Cuda.Check(Cuda.cuDevicePrimaryCtxRetain(out nint context, 0));
Cuda.Check(Cuda.cuCtxSetCurrent(context));
Cuda.Check(Cuda.cuStreamCreate(out nint stream, flags: 1));
nint x = Cuda.Tensor<BFloat16>(hidden, stream), i = Cuda.Tensor<int>(ids, stream);
nint w = Cuda.Tensor<float>(weights, stream), y = Cuda.Tensor<BFloat16>(output, stream);

using var queue = new CudaQueue(gpu, stream);                    // one per stream, for all layers: it has the workspace
var call = new CudaCall { Tokens = tokens, Hidden = x, TopkIds = i, TopkWeights = w, Output = y };
queue.Forward(layer.Experts, call);                              // returns at once
Report("queued");

Cuda.Check(Cuda.cuStreamBeginCapture_v2(stream, mode: 1));       // the same call in a graph ...
queue.Forward(layer.Experts, call);
Cuda.Check(Cuda.cuStreamEndCapture(stream, out nint graph));
Cuda.Check(Cuda.cuGraphInstantiateWithFlags(out nint replay, graph, 0));
others.CopyTo(ids, 0);
Cuda.Write<int>(i, ids, stream);                                 // ... which replays under any routing
Cuda.Check(Cuda.cuGraphLaunch(replay, stream));
Report("replayed");

void Report(string what)
{
    Cuda.Check(Cuda.cuStreamSynchronize(stream));
    Cuda.Read<BFloat16>(y, output);
    layer.Experts.Forward(hidden, ids, weights, expected);       // the same layer with host spans
    Console.WriteLine($"{what}: output[0] is {output[0].ToSingle():F4}, {(output.AsSpan().SequenceEqual(expected) ? "the bits of" : "NOT the bits of")} host spans");
}

/// <summary>As much of the CUDA driver as this program uses; on Windows the library is nvcuda.dll.</summary>
internal static unsafe partial class Cuda
{
    private const string Driver = "libcuda.so.1";

    [LibraryImport(Driver)] public static partial int cuDevicePrimaryCtxRetain(out nint context, int device);
    [LibraryImport(Driver)] public static partial int cuCtxSetCurrent(nint context);
    [LibraryImport(Driver)] public static partial int cuMemAlloc_v2(out nint pointer, nint bytes);
    [LibraryImport(Driver)] public static partial int cuMemcpyHtoDAsync_v2(nint to, void* from, nint bytes, nint stream);
    [LibraryImport(Driver)] public static partial int cuMemcpyDtoH_v2(void* to, nint from, nint bytes);
    [LibraryImport(Driver)] public static partial int cuStreamCreate(out nint stream, uint flags);
    [LibraryImport(Driver)] public static partial int cuStreamSynchronize(nint stream);
    [LibraryImport(Driver)] public static partial int cuStreamBeginCapture_v2(nint stream, int mode);
    [LibraryImport(Driver)] public static partial int cuStreamEndCapture(nint stream, out nint graph);
    [LibraryImport(Driver)] public static partial int cuGraphInstantiateWithFlags(out nint replay, nint graph, ulong flags);
    [LibraryImport(Driver)] public static partial int cuGraphLaunch(nint replay, nint stream);

    public static nint Tensor<T>(ReadOnlySpan<T> values, nint stream) where T : unmanaged
    {
        Check(cuMemAlloc_v2(out nint pointer, (nint)values.Length * sizeof(T)));
        Write(pointer, values, stream);
        return pointer;
    }

    public static void Write<T>(nint to, ReadOnlySpan<T> values, nint stream) where T : unmanaged
    {
        fixed (T* from = values) Check(cuMemcpyHtoDAsync_v2(to, from, (nint)values.Length * sizeof(T), stream));
    }

    public static void Read<T>(nint from, Span<T> values) where T : unmanaged
    {
        fixed (T* to = values) Check(cuMemcpyDtoH_v2(to, from, (nint)values.Length * sizeof(T)));
    }

    public static void Check(int result, [CallerArgumentExpression(nameof(result))] string call = "")
    {
        if (result != 0) throw new InvalidOperationException($"{call} said {result}.");
    }
}
