using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>CUtensorMap: how the copy engine cuts boxes from a tensor. Must lie at a multiple of 64 bytes when the driver fills it.</summary>
[StructLayout(LayoutKind.Sequential, Size = 128)]
internal unsafe struct TensorMap
{
    private ulong _first;

    /// <summary>A tensor [rows, 128] of bytes, in boxes of this many rows.</summary>
    internal static TensorMap OfRows(ulong address, long rows, int boxRows)
    {
        const int bytes = 0, noInterleave = 0, noSwizzle = 0, promoteTo128 = 2, zeros = 0;
        byte* memory = stackalloc byte[128 + 64];
        var map = (TensorMap*)(((nint)memory + 63) & ~63);
        ulong* sizes = stackalloc ulong[2] { 128, (ulong)rows };
        ulong stride = 128;
        uint* box = stackalloc uint[2] { 128, (uint)boxRows }, steps = stackalloc uint[2] { 1, 1 };
        Native.Check(Native.cuTensorMapEncodeTiled(map, bytes, 2, address, sizes, &stride, box, steps, noInterleave, noSwizzle, promoteTo128, zeros));
        return *map;
    }

    /// <summary>Never encoded: kernels do not read it.</summary>
    internal readonly bool IsEmpty => _first == 0;
}
