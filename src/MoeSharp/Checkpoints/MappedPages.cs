using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace MoeSharp;

/// <summary>Gives pages of mapped files back that nobody will read soon. They stay in the system's cache, and whoever reads them again gets them again.</summary>
internal static unsafe partial class MappedPages
{
    private const int DontNeed = 4;

    /// <summary>Releases what matrices view of mapped files; buffers of their own are left alone.</summary>
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
