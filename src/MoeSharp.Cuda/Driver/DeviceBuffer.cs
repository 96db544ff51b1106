namespace MoeSharp;

/// <summary>Device memory of one GPU.</summary>
internal sealed unsafe class DeviceBuffer : ContextHandle
{
    /// <summary>Allocates this many bytes (0 is allowed).</summary>
    /// <exception cref="CudaException">Not enough memory; the message says how much was asked for, for what, and how much is free.</exception>
    internal DeviceBuffer(CudaContext context, long bytes, string what) : base(context)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        Bytes = bytes;
        using CudaContext.Scope scope = context.Enter();
        ulong pointer = 0;
        int result = Native.cuMemAlloc_v2(&pointer, (nuint)Math.Max(bytes, 256));
        if (result == 2)
        {
            throw new CudaException(
                $"{bytes:N0} bytes were asked for on GPU {context.Ordinal} for {what} but {context.Memory().Free:N0} are free; load fewer layers or lower the token count.", result);
        }
        Native.Check(result, nameof(Native.cuMemAlloc_v2));
        Own((nint)pointer);
    }

    /// <summary>Size in bytes.</summary>
    internal long Bytes { get; }

    /// <summary>Address on the device.</summary>
    internal ulong Address => (ulong)Raw;

    internal void Fill(byte value, CudaStream stream)
    {
        using CudaContext.Scope scope = Context.Enter();
        Native.Check(Native.cuMemsetD8Async(Address, value, (nuint)Bytes, stream.Raw));
    }

    /// <summary>Copies to the device; the source must stay as it is until the stream has passed.</summary>
    internal void Upload<T>(ReadOnlySpan<T> from, CudaStream stream, long byteOffset = 0) where T : unmanaged
    {
        long bytes = (long)from.Length * sizeof(T);
        Require(byteOffset, bytes);
        using CudaContext.Scope scope = Context.Enter();
        fixed (T* source = from) Native.Check(Native.cuMemcpyHtoDAsync_v2(Address + (ulong)byteOffset, source, (nuint)bytes, stream.Raw));
    }

    /// <summary>Copies from the device and waits for it.</summary>
    internal void Download<T>(Span<T> to, CudaStream stream, long byteOffset = 0) where T : unmanaged
    {
        long bytes = (long)to.Length * sizeof(T);
        Require(byteOffset, bytes);
        using CudaContext.Scope scope = Context.Enter();
        fixed (T* target = to)
        {
            Native.Check(Native.cuMemcpyDtoHAsync_v2(target, Address + (ulong)byteOffset, (nuint)bytes, stream.Raw));
            Native.Check(Native.cuStreamSynchronize(stream.Raw));
        }
    }

    private void Require(long byteOffset, long bytes)
    {
        if (byteOffset < 0 || checked(byteOffset + bytes) > Bytes)
            throw new ArgumentOutOfRangeException(nameof(byteOffset), $"{bytes} bytes at {byteOffset} do not fit a device buffer of {Bytes} bytes.");
    }

    private protected override int Release(nint raw) => Native.cuMemFree_v2((ulong)raw);
}

/// <summary>Host memory that the copy engine reads and writes directly.</summary>
internal sealed unsafe class PinnedBuffer : ContextHandle
{
    /// <summary>Allocates this many bytes.</summary>
    internal PinnedBuffer(CudaContext context, long bytes) : base(context)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        Bytes = bytes;
        using CudaContext.Scope scope = context.Enter();
        nint pointer = 0;
        int result = Native.cuMemHostAlloc(&pointer, (nuint)bytes, 0);
        if (result == 2) throw new CudaException($"{bytes:N0} bytes of pinned host memory were asked for and the system did not have them; free memory or raise the limit of locked memory.", result);
        Native.Check(result, nameof(Native.cuMemHostAlloc));
        Own(pointer);
    }

    /// <summary>Size in bytes.</summary>
    internal long Bytes { get; }

    internal Span<byte> Span(long offset, int length)
    {
        if (offset < 0 || offset + length > Bytes) throw new ArgumentOutOfRangeException(nameof(offset));
        return new((byte*)Raw + offset, length);
    }

    private protected override int Release(nint raw) => Native.cuMemFreeHost(raw);
}
