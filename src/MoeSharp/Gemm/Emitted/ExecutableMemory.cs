using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>Machine code in memory of its own: written first, then made executable and read-only, never both at once.</summary>
internal sealed unsafe partial class ExecutableMemory : SafeHandle
{
    private const int Read = 1, Write = 2, Execute = 4, Private = 2, Anonymous = 0x20;
    private readonly nuint _bytes;

    /// <summary>Copies position-independent code.</summary>
    /// <exception cref="UnsupportedException">The system forbids memory that was written to become executable.</exception>
    public ExecutableMemory(ReadOnlySpan<byte> code) : base(-1, ownsHandle: true)
    {
        _bytes = (nuint)code.Length;
        SetHandle(Map(0, _bytes, Read | Write, Private | Anonymous, -1, 0));
        if (IsInvalid) throw new OutOfMemoryException($"The system refused {code.Length:N0} bytes for generated code.");
        code.CopyTo(new Span<byte>((void*)handle, code.Length));
        if (Protect(handle, _bytes, Read | Execute) == 0) return;
        Dispose();
        throw new UnsupportedException("This system does not let a process make generated code executable; choose a kernel whose name begins with 'managed'.");
    }

    /// <summary>Whether code can be loaded here: x64 Linux, whose calling convention and system calls the generated code and this class follow.</summary>
    public static bool IsSupported => OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64;

    /// <inheritdoc/>
    public override bool IsInvalid => handle == -1;

    /// <summary>Where the code starts.</summary>
    public byte* Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, this);
            return (byte*)handle;
        }
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => Unmap(handle, _bytes) == 0;

    [LibraryImport("libc", EntryPoint = "mmap")]
    private static partial nint Map(nint address, nuint bytes, int protection, int flags, int file, nint offset);

    [LibraryImport("libc", EntryPoint = "mprotect")]
    private static partial int Protect(nint address, nuint bytes, int protection);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Unmap(nint address, nuint bytes);
}
