namespace MoeSharp;

/// <summary>Addresses that callers give.</summary>
internal static unsafe class DevicePointer
{
    /// <summary>Throws unless this is memory of the current context's GPU (or managed memory) at a multiple of so many bytes.</summary>
    /// <exception cref="ArgumentException">It is not; the message says what it is.</exception>
    internal static void Require(CudaContext context, nint pointer, int alignment, string name)
    {
        if (pointer == 0) throw new ArgumentException($"{name} is a null pointer; give its address on GPU {context.Ordinal}.");
        if (pointer % alignment != 0) throw new ArgumentException($"{name} starts at 0x{pointer:x}, which is not a multiple of {alignment} bytes; align it.");
        const int memoryType = 2, isManaged = 8, deviceOrdinal = 9, host = 1, device = 2;
        int memory = 0, managed = 0, ordinal = -1;
        int* questions = stackalloc int[3] { memoryType, isManaged, deviceOrdinal };
        void** answers = stackalloc void*[3] { &memory, &managed, &ordinal };
        Native.Check(Native.cuPointerGetAttributes(3, questions, answers, (ulong)pointer));
        if (managed != 0 || (memory == device && ordinal == context.Ordinal)) return;
        throw new ArgumentException(memory switch
        {
            device => $"{name} (0x{pointer:x}) lies in memory of GPU {ordinal} but the layer is on GPU {context.Ordinal}; copy it there.",
            host => $"{name} (0x{pointer:x}) is pinned host memory; copy it to GPU {context.Ordinal}, or call FusedExperts.Forward with spans.",
            _ => $"{name} (0x{pointer:x}) is no device memory that the driver knows; copy it to GPU {context.Ordinal}, or call FusedExperts.Forward with spans.",
        });
    }
}
