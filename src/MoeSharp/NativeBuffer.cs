using System.Runtime.InteropServices;

namespace MoeSharp;

/// <summary>Owned native memory, aligned to 64 bytes and zeroed. Whoever creates it disposes it.</summary>
public sealed unsafe class NativeBuffer : SafeHandle
{
    /// <summary>Allocates this many bytes (0 is allowed).</summary>
    /// <exception cref="OutOfMemoryException">The system has no such block; the message says how much was asked for.</exception>
    public NativeBuffer(long bytes) : base(0, ownsHandle: true)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        Bytes = bytes;
        nuint size = (nuint)Math.Max(bytes, 64);
        void* memory;
        try
        {
            memory = NativeMemory.AlignedAlloc(size, 64);
        }
        catch (OutOfMemoryException)
        {
            throw new OutOfMemoryException($"{bytes:N0} bytes of native memory were asked for and the system did not have them; lower the token count or set a byte budget.");
        }
        NativeMemory.Clear(memory, size);
        SetHandle((nint)memory);
    }

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
            throw new ArgumentOutOfRangeException(nameof(byteOffset), $"{count} x {sizeof(T)} bytes at {byteOffset} do not fit a buffer of {Bytes} bytes.");
        return new(Pointer + byteOffset, count);
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        NativeMemory.AlignedFree((void*)handle);
        return true;
    }
}
