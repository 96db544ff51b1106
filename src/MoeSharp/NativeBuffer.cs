using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>Owned native memory, aligned to 64 bytes and zeroed. Whoever creates it disposes it.</summary>
public sealed unsafe partial class NativeBuffer : SafeHandle
{
    private const int HugePage = 2 << 20, AdviceHugePage = 14;
    private static long s_live;

    /// <summary>Allocates this many bytes (0 is allowed).</summary>
    /// <exception cref="OutOfMemoryException">The system has no such block; the message says how much was asked for.</exception>
    public NativeBuffer(long bytes) : this(bytes, hugePages: false)
    {
    }

    /// <param name="hugePages">Asks for pages of 2 MiB where the system gives them: weights are read once each, and a page walk every 4 KiB
    /// shows.</param>
    internal NativeBuffer(long bytes, bool hugePages) : base(0, ownsHandle: true)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        Bytes = bytes;
        nuint size = (nuint)Math.Max(bytes, 64);
        void* memory;
        try
        {
            memory = NativeMemory.AlignedAlloc(size, hugePages ? (nuint)HugePage : 64);
        }
        catch (OutOfMemoryException)
        {
            throw new OutOfMemoryException(
                $"{bytes:N0} bytes of native memory were asked for and the system did not have them; lower the token count or set a byte budget.");
        }
        if (hugePages && OperatingSystem.IsLinux()) _ = AdviseMemory(memory, size, AdviceHugePage); // refusal changes nothing but speed
        NativeMemory.Clear(memory, size);
        SetHandle((nint)memory);
        Interlocked.Add(ref s_live, bytes);
    }

    /// <summary>Bytes of all buffers that are not freed yet.</summary>
    internal static long LiveBytes => Interlocked.Read(ref s_live);

    /// <summary>Size in bytes.</summary>
    public long Bytes { get; }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    internal byte* Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, this);
            return (byte*)handle;
        }
    }

    internal Span<T> Span<T>(long byteOffset, int count) where T : unmanaged
    {
        if (byteOffset < 0 || checked(byteOffset + (long)count * sizeof(T)) > Bytes)
            throw new ArgumentOutOfRangeException(
                nameof(byteOffset), $"{count} x {sizeof(T)} bytes at {byteOffset} do not fit a buffer of {Bytes} bytes.");
        return new(Pointer + byteOffset, count);
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        NativeMemory.AlignedFree((void*)handle);
        Interlocked.Add(ref s_live, -Bytes);
        return true;
    }

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int AdviseMemory(void* address, nuint length, int advice);
}
