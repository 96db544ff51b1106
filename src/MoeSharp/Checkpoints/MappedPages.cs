using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace MoeSharp;

/// <summary>Tells the system which pages of mapped files will be read next, and which no more. It changes when they are read, never what is in them.</summary>
internal static unsafe partial class MappedPages
{
    private const int WillNeed = 3, DontNeed = 4;

    /// <summary>Asks for bytes that will be read soon, all at once.</summary>
    public static void ReadAhead(byte* start, long bytes)
    {
        if (!OperatingSystem.IsLinux() || bytes <= 0) return;
        nint page = Environment.SystemPageSize, first = (nint)start / page * page;
        _ = Advise((void*)first, (nuint)((nint)start + (nint)bytes - first), WillNeed); // refusal changes nothing but speed
    }

    /// <summary>Asks for what matrices view of mapped files.</summary>
    public static void ReadAhead(ReadOnlySpan<BlockScaledMatrix> matrices)
    {
        foreach (BlockScaledMatrix matrix in matrices)
            if (matrix.Storage.ValuesOwner is SafeMemoryMappedViewHandle { IsClosed: false })
                ReadAhead(matrix.Storage.Values, matrix.Rows * (long)matrix.Storage.RowBytes);
    }

    /// <summary>Releases what matrices view of mapped files; buffers of their own are left alone. Pages stay in the system's cache, and whoever reads them
    /// again gets them again.</summary>
    public static void Release(ReadOnlySpan<BlockScaledMatrix> matrices)
    {
        if (!OperatingSystem.IsLinux()) return;
        foreach (BlockScaledMatrix matrix in matrices)
        {
            MatrixStorage storage = matrix.Storage;
            // Anywhere else than in a file's mapping the same advice would erase what is there.
            if (storage.ValuesOwner is not SafeMemoryMappedViewHandle file || file.IsClosed) continue;
            nint page = Environment.SystemPageSize, start = (nint)storage.Values;
            nint first = (start + page - 1) / page * page, end = (start + matrix.Rows * storage.RowBytes) / page * page;
            if (first < end) _ = Advise((void*)first, (nuint)(end - first), DontNeed); // refusal changes nothing but what is resident
        }
    }

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int Advise(void* address, nuint length, int advice);
}
