using System.Buffers.Binary;
using System.Text.Json;

namespace MoeSharp;

/// <summary>A tensor about to be written.</summary>
/// <param name="Name">Its key.</param>
/// <param name="Type">Element type as the format spells it: "F8_E4M3", "BF16", ...</param>
/// <param name="Shape">Row-major.</param>
/// <param name="Write">Writes exactly the tensor's bytes, little-endian.</param>
public sealed record TensorToWrite(string Name, string Type, long[] Shape, Action<Stream> Write)
{
    /// <summary>A tensor whose bytes are at hand.</summary>
    public static TensorToWrite Of(string name, string type, long[] shape, ReadOnlyMemory<byte> data) =>
        new(name, type, shape, stream => stream.Write(data.Span));
}

/// <summary>Writes safetensors files: first to a temporary file beside the target, then renamed, so that the target is never half-written.</summary>
public static class SafetensorsWriter
{
    /// <summary>Writes a file, replacing an existing one only when everything has been written.</summary>
    /// <exception cref="ArgumentException">A name appears twice or holds control characters, a type is unknown, names and shapes take more than the
    /// 100 MB that readers accept, or a tensor wrote another number of bytes than its shape says.</exception>
    /// <exception cref="IOException">The disk refused.</exception>
    public static void Write(string path, IReadOnlyList<TensorToWrite> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        TensorToWrite[] sorted = [.. tensors.OrderByDescending(t => BitsOf(t)).ThenBy(t => t.Name, StringComparer.Ordinal)];
        byte[] header = Header(sorted, metadata);
        WholeFile.Write(path, stream =>
        {
            stream.Write(header);
            foreach (TensorToWrite t in sorted)
            {
                long before = stream.Position;
                t.Write(stream);
                if (stream.Position - before != BytesOf(t))
                    throw new ArgumentException($"{t.Name} wrote {stream.Position - before} bytes but {t.Type} [{string.Join(", ", t.Shape)}] takes {BytesOf(t)}.");
            }
        });
    }

    private static byte[] Header(TensorToWrite[] tensors, IReadOnlyDictionary<string, string>? metadata)
    {
        using var buffer = new MemoryStream();
        buffer.Write(new byte[8]);
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            if (metadata is not null)
            {
                json.WriteStartObject("__metadata__");
                foreach ((string key, string value) in metadata) json.WriteString(key, value);
                json.WriteEndObject();
            }
            long offset = 0;
            var names = new HashSet<string> { "__metadata__" };
            foreach (TensorToWrite t in tensors)
            {
                if (!names.Add(t.Name)) throw new ArgumentException($"The tensor name {t.Name} is given twice or reserved.");
                if (PlainText.HasControls(t.Name)) throw new ArgumentException($"The tensor name {PlainText.Of(t.Name)} holds a control character.");
                json.WriteStartObject(t.Name);
                json.WriteString("dtype", t.Type);
                json.WriteStartArray("shape");
                foreach (long d in t.Shape) json.WriteNumberValue(d);
                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(offset);
                json.WriteNumberValue(offset = checked(offset + BytesOf(t)));
                json.WriteEndArray();
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        while (buffer.Length % 8 != 0) buffer.WriteByte((byte)' ');
        if (buffer.Length - 8 > SafetensorsHeader.Limit)
            throw new ArgumentException(
                $"Names and shapes take {buffer.Length - 8} bytes but readers accept {SafetensorsHeader.Limit}; write several files.");
        byte[] header = buffer.ToArray();
        BinaryPrimitives.WriteInt64LittleEndian(header, header.Length - 8);
        return header;
    }

    private static int BitsOf(TensorToWrite t) =>
        TensorTypes.TryGetBits(t.Type, out int bits) ? bits : throw new ArgumentException($"{t.Name} has the unknown dtype {t.Type}.");

    private static long BytesOf(TensorToWrite t)
    {
        UInt128 bits = (UInt128)BitsOf(t);
        foreach (long d in t.Shape)
        {
            if (d < 0 || bits * (UInt128)d > long.MaxValue)
                throw new ArgumentException($"{t.Name} cannot have the shape [{string.Join(", ", t.Shape)}].");
            bits *= (UInt128)d;
        }
        return bits % 8 == 0 ? (long)bits / 8 : throw new ArgumentException($"{t.Name} does not fill whole bytes.");
    }
}
