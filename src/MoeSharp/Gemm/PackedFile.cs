using System.IO.MemoryMappedFiles;
using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace MoeSharp;

/// <summary>
/// Packed weights of a layer in a file: a page of header, then both GEMMs' weights, each from a page's start, then a CRC-32C of every MiB of them. A file is
/// written under another name and renamed when it is complete; one that is not exactly what it should be counts as missing.
/// </summary>
internal sealed unsafe class PackedFile : IDisposable
{
    /// <summary>Counted up with every change of how weights are packed or stored.</summary>
    public const int Version = 2;
    private const ulong Magic = 0x4B43_4150_454F_4D0A; // "\nMOEPACK"
    private const int Page = 4096, Part = 1 << 20;
    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly byte* _start;
    private readonly Header _header;

    [StructLayout(LayoutKind.Sequential)]
    private struct Header
    {
        public ulong Magic;
        public int Version, HasNaN;
        public PackedKey Key;
        public long GateUpBytes, DownBytes;
        public uint Checksum; // of what stands before it

        public readonly long DownStart => Page + RoundUp(GateUpBytes);
        public readonly long ChecksumsStart => DownStart + RoundUp(DownBytes);
        public readonly long FileBytes => ChecksumsStart + (Parts(GateUpBytes) + Parts(DownBytes)) * (long)sizeof(uint);

        public uint Compute()
        {
            fixed (Header* header = &this) return Crc((byte*)header, (int)((byte*)&header->Checksum - (byte*)header));
        }

        private static long RoundUp(long bytes) => (bytes + Page - 1) / Page * Page;
    }

    private PackedFile(MemoryMappedFile map, MemoryMappedViewAccessor view, byte* start)
    {
        _map = map;
        _view = view;
        _start = start;
        _header = *(Header*)start;
    }

    /// <summary>Whether a weight is NaN.</summary>
    public bool HasNaN => _header.HasNaN != 0;

    public PackedMemory GateUp => new(_start + Page, _header.GateUpBytes, _view.SafeMemoryMappedViewHandle);

    public PackedMemory Down => new(_start + _header.DownStart, _header.DownBytes, _view.SafeMemoryMappedViewHandle);

    /// <summary>Maps a file and compares every checksum; null where there is none, or it is damaged, of another version or for other weights.</summary>
    public static PackedFile? Open(string path, PackedKey key)
    {
        MemoryMappedFile? map = null;
        MemoryMappedViewAccessor? view = null;
        try
        {
            long length = new FileInfo(path).Length;
            if (length < Page) return null;
            map = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
            view = map.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
            byte* start = null;
            view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            view.SafeMemoryMappedViewHandle.ReleasePointer();
            if (IsIntact(start, length, key)) return new(map, view, start);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // as good as missing
        }
        view?.Dispose();
        map?.Dispose();
        return null;
    }

    private static bool IsIntact(byte* start, long length, PackedKey key)
    {
        Header header = *(Header*)start;
        if (header.Magic != Magic || header.Version != Version || !header.Key.Equals(key) || header.Checksum != header.Compute() || header.FileBytes != length) return false;
        uint* checksums = (uint*)(start + header.ChecksumsStart), ofDown = checksums + Parts(header.GateUpBytes);
        return AreIntact(start + Page, header.GateUpBytes, checksums) && AreIntact(start + header.DownStart, header.DownBytes, ofDown);
    }

    private static bool AreIntact(byte* weights, long bytes, uint* checksums)
    {
        int damaged = 0;
        Parallel.For(0, Parts(bytes), part =>
        {
            if (Crc(weights + (long)part * Part, PartBytes(bytes, part)) != checksums[part]) Interlocked.Increment(ref damaged);
        });
        return damaged == 0;
    }

    /// <summary>Writes a file, replacing what is there.</summary>
    /// <exception cref="IOException">The folder is full, missing or cannot be written.</exception>
    public static void Write(string path, PackedKey key, PackedWeights gateUp, PackedWeights down, bool hasNaN)
    {
        var header = new Header { Magic = Magic, Version = Version, HasNaN = hasNaN ? 1 : 0, Key = key, GateUpBytes = gateUp.Bytes, DownBytes = down.Bytes };
        header.Checksum = header.Compute();
        string unfinished = $"{path}.{Guid.NewGuid():N}.tmp";
        try
        {
            using (SafeFileHandle file = File.OpenHandle(unfinished, FileMode.CreateNew, FileAccess.Write))
            {
                uint[] ofGateUp = Write(file, Page, gateUp), ofDown = Write(file, header.DownStart, down);
                RandomAccess.Write(file, MemoryMarshal.AsBytes<uint>([.. ofGateUp, .. ofDown]), header.ChecksumsStart);
                RandomAccess.Write(file, MemoryMarshal.AsBytes(new ReadOnlySpan<Header>(in header)), 0);
                RandomAccess.FlushToDisk(file);
            }
            File.Move(unfinished, path, overwrite: true);
        }
        finally
        {
            File.Delete(unfinished);
        }
    }

    /// <summary>Returns the checksums.</summary>
    private static uint[] Write(SafeFileHandle file, long start, PackedWeights weights)
    {
        byte* first = weights.Pointer;
        long bytes = weights.Bytes;
        var checksums = new uint[Parts(bytes)];
        for (int part = 0; part < checksums.Length; part++)
        {
            var memory = new ReadOnlySpan<byte>(first + (long)part * Part, PartBytes(bytes, part));
            RandomAccess.Write(file, memory, start + (long)part * Part);
            checksums[part] = Crc(first + (long)part * Part, memory.Length);
        }
        return checksums;
    }

    private static int Parts(long bytes) => (int)((bytes + Part - 1) / Part);

    private static int PartBytes(long bytes, int part) => (int)Math.Min(Part, bytes - (long)part * Part);

    /// <summary>CRC-32C.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static uint Crc(byte* bytes, int length)
    {
        uint crc = uint.MaxValue;
        int i = 0;
        for (; i + 8 <= length; i += 8) crc = BitOperations.Crc32C(crc, *(ulong*)(bytes + i));
        for (; i < length; i++) crc = BitOperations.Crc32C(crc, bytes[i]);
        return crc;
    }

    public void Dispose()
    {
        _view.Dispose();
        _map.Dispose();
    }
}

/// <summary>Where packed weights lie: memory of their own, or a mapped file.</summary>
internal readonly unsafe struct PackedMemory(byte* first, long bytes, SafeHandle owner)
{
    private readonly byte* _first = first;

    public long Bytes { get; } = bytes;

    /// <summary>Disposed with the weights.</summary>
    public SafeHandle Owner { get; } = owner;

    /// <summary>First byte.</summary>
    public byte* Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(Owner.IsClosed, Owner);
            return _first;
        }
    }
}
