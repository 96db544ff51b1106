using System.IO.MemoryMappedFiles;
using Microsoft.Win32.SafeHandles;

namespace MoeSharp;

/// <summary>One tensor of a safetensors file.</summary>
/// <param name="Name">Its key.</param>
/// <param name="Type">Element type as the file spells it: "F8_E4M3", "BF16", ...</param>
/// <param name="Shape">Row-major; empty for a scalar.</param>
/// <param name="Offset">First byte, from the start of the file.</param>
/// <param name="Bytes">Length of the data.</param>
public sealed record TensorEntry(string Name, string Type, long[] Shape, long Offset, long Bytes)
{
    /// <summary>Product of the shape.</summary>
    public long Elements => Shape.Aggregate(1L, (product, d) => product * d);

    internal string ShapeText => $"[{string.Join(", ", Shape)}]";
}

/// <summary>A memory-mapped safetensors file whose header has passed every rule of the format. Data is read only when it is touched.</summary>
public sealed unsafe class SafetensorsFile : IDisposable
{
    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly Dictionary<string, TensorEntry> _tensors;
    private readonly byte* _start;

    private SafetensorsFile(string path, MemoryMappedFile map, MemoryMappedViewAccessor view, byte* start, Dictionary<string, TensorEntry> tensors)
    {
        Path = path;
        _map = map;
        _view = view;
        _start = start;
        _tensors = tensors;
    }

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>Tensors by name.</summary>
    public IReadOnlyDictionary<string, TensorEntry> Tensors => _tensors;

    /// <summary>Keeps the mapping alive for views that outlive this object.</summary>
    internal SafeMemoryMappedViewHandle Mapping => _view.SafeMemoryMappedViewHandle;

    /// <summary>Maps a file and checks its header.</summary>
    /// <exception cref="CheckpointException">The file is missing, unreadable or malformed; the message says where and how.</exception>
    public static SafetensorsFile Open(string path)
    {
        MemoryMappedFile? map = null;
        MemoryMappedViewAccessor? view = null;
        try
        {
            long length = new FileInfo(File.ResolveLinkTarget(path, returnFinalTarget: true)?.FullName ?? path).Length;
            if (length < 8) throw new CheckpointException($"{path} has {length} bytes; a safetensors file starts with 8 bytes of header length.");
            map = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
            view = map.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
            byte* start = null;
            view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            view.SafeMemoryMappedViewHandle.ReleasePointer();
            return new(path, map, view, start, SafetensorsHeader.Read(path, start, length));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or CheckpointException)
        {
            view?.Dispose();
            map?.Dispose();
            if (e is CheckpointException) throw;
            string why = e is FileNotFoundException or DirectoryNotFoundException ? "does not exist" : $"cannot be read: {e.Message}";
            throw new CheckpointException($"{path} {why}.", e);
        }
    }

    /// <summary>The bytes of a tensor; they may start at any address.</summary>
    /// <exception cref="CheckpointException">There is no such tensor, or it has more than the 2^31 - 1 bytes that a span can hold.</exception>
    public ReadOnlySpan<byte> Data(string name)
    {
        TensorEntry entry = Find(name);
        if (entry.Bytes > int.MaxValue)
            throw new CheckpointException($"{name} in {Path} has {entry.Bytes} bytes, more than the {int.MaxValue} that can be read at once.");
        return new(Pointer(entry), (int)entry.Bytes);
    }

    /// <summary>The tensor with this name.</summary>
    /// <exception cref="CheckpointException">There is none.</exception>
    public TensorEntry Find(string name) =>
        _tensors.TryGetValue(name, out TensorEntry? entry) ? entry : throw new CheckpointException($"{Path} has no tensor {name}.");

    internal byte* Pointer(TensorEntry entry)
    {
        ObjectDisposedException.ThrowIf(Mapping.IsClosed, this);
        return _start + entry.Offset;
    }

    /// <summary>Unmaps the file, once the weights that view it are disposed too.</summary>
    public void Dispose()
    {
        _view.Dispose();
        _map.Dispose();
    }
}
