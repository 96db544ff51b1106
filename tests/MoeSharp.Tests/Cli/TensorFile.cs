using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;

namespace MoeSharp.Tests;

/// <summary>Writes small safetensors files for the tool to read, independently of the library's own writer.</summary>
internal sealed class TensorFile
{
    private readonly StringBuilder _header = new("{");
    private readonly MemoryStream _data = new();

    public TensorFile Add<T>(string name, string type, int[] shape, T[] values) where T : unmanaged
    {
        long begin = _data.Length;
        _data.Write(MemoryMarshal.AsBytes<T>(values));
        if (_header.Length > 1) _header.Append(',');
        _header.Append($"\"{name}\":{{\"dtype\":\"{type}\",\"shape\":[{string.Join(',', shape)}],\"data_offsets\":[{begin},{_data.Length}]}}");
        return this;
    }

    public string Save(string path)
    {
        byte[] header = Encoding.UTF8.GetBytes(_header + "}");
        var length = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(length, (ulong)header.Length);
        File.WriteAllBytes(path, [.. length, .. header, .. _data.ToArray()]);
        return path;
    }
}

/// <summary>A folder that is gone after the test.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public TemporaryFolder() => Directory.CreateDirectory(Root);

    public string Root { get; } = Path.Combine(Path.GetTempPath(), $"moesharp-{Guid.NewGuid():N}");

    public string this[string name] => Path.Combine(Root, name);

    public void Dispose() => Directory.Delete(Root, recursive: true);
}
