using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text.Json;

namespace MoeSharp.Tests;

/// <summary>A small reader of safetensors files for test vectors, independent of the library's own.</summary>
internal sealed class Tensors
{
    private readonly byte[] _bytes;
    private readonly int _dataStart;
    private readonly Dictionary<string, (string Type, long[] Shape, int Start, int End)> _entries = [];
    private readonly Dictionary<string, string> _metadata = [];

    public Tensors(string path)
    {
        _bytes = File.ReadAllBytes(path);
        int headerLength = checked((int)BinaryPrimitives.ReadUInt64LittleEndian(_bytes));
        _dataStart = 8 + headerLength;
        using JsonDocument header = JsonDocument.Parse(_bytes.AsMemory(8, headerLength));
        foreach (JsonProperty p in header.RootElement.EnumerateObject())
        {
            if (p.Name == "__metadata__")
            {
                foreach (JsonProperty m in p.Value.EnumerateObject()) _metadata[m.Name] = m.Value.GetString()!;
                continue;
            }
            JsonElement offsets = p.Value.GetProperty("data_offsets");
            long[] shape = [.. p.Value.GetProperty("shape").EnumerateArray().Select(d => d.GetInt64())];
            _entries[p.Name] = (p.Value.GetProperty("dtype").GetString()!, shape, offsets[0].GetInt32(), offsets[1].GetInt32());
        }
    }

    public bool Has(string name) => _entries.ContainsKey(name);

    /// <summary>A metadata entry, or null.</summary>
    public string? Metadata(string key) => _metadata.GetValueOrDefault(key);

    public long[] Shape(string name) => _entries[name].Shape;

    /// <summary>The safetensors name of the element type: BF16, F32, U8, ...</summary>
    public string Type(string name) => _entries[name].Type;

    /// <summary>The bytes as they are stored.</summary>
    public byte[] Bytes(string name) => _bytes[(_dataStart + _entries[name].Start)..(_dataStart + _entries[name].End)];

    /// <summary>The elements as they are stored, reinterpreted.</summary>
    public T[] Get<T>(string name) where T : unmanaged
    {
        (_, long[] shape, int start, int end) = _entries[name];
        T[] elements = MemoryMarshal.Cast<byte, T>(_bytes.AsSpan(_dataStart + start, end - start)).ToArray();
        long expected = shape.Aggregate(1L, (a, b) => a * b);
        if (elements.Length != expected) throw new InvalidDataException($"{name} holds {elements.Length} elements of {typeof(T).Name} but its shape says {expected}.");
        return elements;
    }
}
