using System.Buffers.Binary;
using System.Text.Json;

namespace MoeSharp;

/// <summary>Reads and checks a safetensors header: 8 bytes of length, then JSON, then data without holes or overlaps to the last byte.</summary>
internal static unsafe class SafetensorsHeader
{
    /// <summary>Largest header that readers of the format accept.</summary>
    public const long Limit = 100_000_000;


    public static Dictionary<string, TensorEntry> Read(string path, byte* start, long length)
    {
        ulong size = BinaryPrimitives.ReadUInt64LittleEndian(new(start, 8));
        if (size > Limit) throw Bad(path, $"its header claims {size} bytes and the limit is {Limit}");
        long data = 8 + (long)size;
        if (data > length) throw Bad(path, $"its header claims {size} bytes but the file has {length}; it may be truncated");
        Dictionary<string, TensorEntry> tensors;
        try
        {
            tensors = Parse(path, new ReadOnlySpan<byte>(start + 8, (int)size), data);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new CheckpointException($"{path} is not a safetensors file: its header is not valid JSON ({e.Message.TrimEnd('.')}).", e);
        }
        CheckLayout(path, tensors, data, length);
        return tensors;
    }

    private static Dictionary<string, TensorEntry> Parse(string path, ReadOnlySpan<byte> json, long data)
    {
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 4 });
        var tensors = new Dictionary<string, TensorEntry>(json.Length / 128);
        if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject) throw Bad(path, "its header is not a JSON object");
        bool metadata = false;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            if (PlainText.HasControls(name)) throw Bad(path, $"the name of the tensor {name} holds a control character");
            reader.Read();
            if (name == "__metadata__")
            {
                if (metadata) throw Bad(path, "the key __metadata__ appears twice");
                metadata = true;
                ReadMetadata(path, ref reader);
            }
            else if (!tensors.TryAdd(name, ReadEntry(path, name, ref reader, data)))
            {
                throw Bad(path, $"the tensor {name} appears twice");
            }
        }
        reader.Read(); // throws where something follows the object
        return tensors;
    }

    private static void ReadMetadata(string path, ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw Bad(path, "__metadata__ is not an object");
        var keys = new HashSet<string>();
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString()!;
            if (!keys.Add(key)) throw Bad(path, $"__metadata__ has the key {key} twice");
            reader.Read();
            if (reader.TokenType != JsonTokenType.String) throw Bad(path, $"__metadata__ key {key} is not a string");
        }
    }

    private static TensorEntry ReadEntry(string path, string name, ref Utf8JsonReader reader, long data)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw Bad(path, $"the entry of {name} is not an object");
        string? type = null;
        long[]? shape = null, offsets = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            // Files have many thousands of entries: their keys are not worth a string each.
            string key = reader.ValueTextEquals("dtype"u8) ? "dtype" : reader.ValueTextEquals("shape"u8) ? "shape"
                : reader.ValueTextEquals("data_offsets"u8)
                    ? "data_offsets"
                    : throw Bad(path, $"the entry of {name} has the unknown key {reader.GetString()}");
            reader.Read();
            bool fresh = key switch
            {
                "dtype" => Once(ref type, reader.TokenType == JsonTokenType.String ? reader.GetString() : null),
                "shape" => Once(ref shape, ReadNumbers(path, name, key, ref reader)),
                _ => Once(ref offsets, ReadNumbers(path, name, key, ref reader)),
            };
            if (!fresh) throw Bad(path, $"the entry of {name} has {key} twice or not as it must be");
        }
        if (type is null || shape is null || offsets is not [long begin, long end])
            throw Bad(path, $"the entry of {name} needs dtype, shape and two data_offsets");
        if (!TensorTypes.TryGetBits(type, out int bits)) throw Bad(path, $"{name} has the unknown dtype {type}");
        if (end < begin) throw Bad(path, $"{name} has data_offsets [{begin}, {end}], which end before they begin");
        UInt128 total = (UInt128)bits;
        foreach (long d in shape)
        {
            total *= (UInt128)d;
            if (total > long.MaxValue) throw Bad(path, $"{name} has shape [{string.Join(", ", shape)}], whose size overflows");
        }
        if (total % 8 != 0) throw Bad(path, $"{name} with dtype {type} and shape [{string.Join(", ", shape)}] does not fill whole bytes");
        if ((long)(total / 8) != end - begin)
        {
            string taken = $"with dtype {type} and shape [{string.Join(", ", shape)}] takes {total / 8} bytes";
            throw Bad(path, $"{name} {taken} but its data_offsets [{begin}, {end}] span {end - begin}");
        }
        if (begin > long.MaxValue - data) throw Bad(path, $"{name} has data_offsets [{begin}, {end}], beyond any file");
        return new(name, type, shape, data + begin, end - begin);
    }

    private static bool Once<T>(ref T? place, T? value) where T : class
    {
        bool fresh = place is null && value is not null;
        place = value;
        return fresh;
    }

    private static long[] ReadNumbers(string path, string name, string key, ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartArray) throw Bad(path, $"{key} of {name} is not an array");
        var numbers = new List<long>(4);
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (reader.TokenType != JsonTokenType.Number || !reader.TryGetInt64(out long number) || number < 0
                || reader.ValueSpan.IndexOfAny((byte)'-', (byte)'.') >= 0)
                throw Bad(path, $"{key} of {name} must hold whole numbers from 0 to 2^63 - 1");
            numbers.Add(number);
        }
        return [.. numbers];
    }

    /// <summary>In order of offsets, each tensor starts where the one before ended; the last ends with the file.</summary>
    private static void CheckLayout(string path, Dictionary<string, TensorEntry> tensors, long data, long length)
    {
        TensorEntry[] sorted = [.. tensors.Values];
        Array.Sort(sorted, static (a, b) => a.Offset != b.Offset ? a.Offset.CompareTo(b.Offset) : a.Bytes.CompareTo(b.Bytes));
        long at = data;
        foreach (TensorEntry t in sorted)
        {
            if (t.Offset + t.Bytes > length)
                throw Bad(path, $"{t.Name} ends at byte {t.Offset + t.Bytes} but the file has {length}; it may be truncated");
            if (t.Offset != at)
                throw Bad(path, $"{t.Name} starts at byte {t.Offset} where byte {at} was due; tensors must neither overlap nor leave holes");
            at += t.Bytes;
        }
        if (at != length) throw Bad(path, $"its tensors end at byte {at} but the file has {length}");
    }

    private static CheckpointException Bad(string path, string what) => new($"{path} is not a valid safetensors file: {what}.");
}
