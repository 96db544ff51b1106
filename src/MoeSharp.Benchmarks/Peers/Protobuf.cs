using System.Buffers;
using System.Text;

namespace MoeSharp.Benchmarks;

/// <summary>Writes one message in protocol buffers' wire format; fields in the order of the calls.</summary>
internal sealed class Protobuf
{
    private readonly ArrayBufferWriter<byte> _bytes = new();

    public ReadOnlySpan<byte> Bytes => _bytes.WrittenSpan;

    public Protobuf Varint(int field, long value)
    {
        Write((ulong)field << 3);
        Write((ulong)value);
        return this;
    }

    public Protobuf Float(int field, float value)
    {
        Write((ulong)field << 3 | 5);
        BitConverter.TryWriteBytes(_bytes.GetSpan(4), value);
        _bytes.Advance(4);
        return this;
    }

    public Protobuf Text(int field, string value) => Block(field, Encoding.UTF8.GetBytes(value));

    public Protobuf Message(int field, Protobuf value) => Block(field, value.Bytes);

    private Protobuf Block(int field, ReadOnlySpan<byte> bytes)
    {
        Write((ulong)field << 3 | 2);
        Write((ulong)bytes.Length);
        _bytes.Write(bytes);
        return this;
    }

    private void Write(ulong value)
    {
        Span<byte> bytes = _bytes.GetSpan(10);
        int count = 0;
        for (; value >= 0x80; value >>= 7) bytes[count++] = (byte)(value | 0x80);
        bytes[count++] = (byte)value;
        _bytes.Advance(count);
    }
}
