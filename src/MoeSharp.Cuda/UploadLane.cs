namespace MoeSharp;

/// <summary>A stream and two slots of staging memory, used by one thread.</summary>
internal sealed class UploadLane : IDisposable
{
    private readonly UploadSlot?[] _slots = new UploadSlot?[2];
    private int _turn;

    internal UploadLane(CudaContext context, long slotBytes)
    {
        Stream = new CudaStream(context);
        try
        {
            for (int i = 0; i < _slots.Length; i++) _slots[i] = new UploadSlot(context, slotBytes);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    internal CudaStream Stream { get; }

    /// <summary>The slot that was used longest ago, once the device has passed its last piece.</summary>
    internal UploadSlot NextSlot()
    {
        UploadSlot slot = _slots[_turn]!;
        _turn = 1 - _turn;
        slot.Passed.Synchronize();
        return slot;
    }

    public void Dispose()
    {
        Stream.Drain(); // a load that stopped early may still be copying from the slots
        Stream.Dispose();
        foreach (UploadSlot? slot in _slots) slot?.Dispose();
    }
}

/// <summary>Pinned memory for one piece, and as much on the device.</summary>
internal sealed unsafe class UploadSlot : IDisposable
{
    private readonly PinnedBuffer _host;

    internal UploadSlot(CudaContext context, long bytes)
    {
        _host = new PinnedBuffer(context, bytes);
        try
        {
            Device = new DeviceBuffer(context, bytes, "staging of weights");
            Passed = new CudaEvent(context);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    internal DeviceBuffer Device { get; }

    /// <summary>Behind everything that uses the slot.</summary>
    internal CudaEvent Passed { get; }

    /// <summary>Copies rows of a matrix, which may be a mapped file, into pinned memory.</summary>
    internal void Read(BlockScaledMatrix matrix, int first, int rows, long offset) =>
        Read(matrix.Storage.Values + first * matrix.Storage.RowBytes, matrix.Storage.RowBytes, matrix.Columns * matrix.Format.ValueBytes(), rows, offset);

    /// <summary>The same with its MXFP8 scales.</summary>
    internal void ReadScales(BlockScaledMatrix matrix, int first, int rows, long offset) =>
        Read(matrix.Storage.Scales + first * matrix.Storage.ScaleRowBytes, matrix.Storage.ScaleRowBytes, matrix.ScaleColumns, rows, offset);

    private void Read(byte* from, nint pitch, int rowBytes, int rows, long offset)
    {
        int atOnce = pitch == rowBytes ? rows : 1;
        for (int r = 0; r < rows; r += atOnce)
            new ReadOnlySpan<byte>(from + r * pitch, checked(atOnce * rowBytes)).CopyTo(_host.Span(offset + (long)r * rowBytes, atOnce * rowBytes));
    }

    /// <summary>Zeros in pinned memory.</summary>
    internal void Clear(long offset, long bytes) => _host.Span(offset, checked((int)bytes)).Clear();

    /// <summary>Queues the copy of the first bytes to the device.</summary>
    internal void Copy(long bytes, CudaStream stream) => Device.Upload<byte>(_host.Span(0, checked((int)bytes)), stream);

    public void Dispose()
    {
        Passed?.Dispose();
        Device?.Dispose();
        _host.Dispose();
    }
}
