using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;

namespace MoeSharp.Tests;

/// <summary>Headers are hostile until checked: each rule of the format has a file that breaks it.</summary>
public sealed class SafetensorsTests : IDisposable
{
    private const string Good = """{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"F32","shape":[],"data_offsets":[2,6]}}""";
    private readonly string _folder = Directory.CreateTempSubdirectory("moesharp").FullName;

    private string Target => Path.Combine(_folder, "x.safetensors");

    [Theory]
    [InlineData("", 0)]
    [InlineData("[]", 0)]
    [InlineData("{", 0)]
    [InlineData("{}x", 0)]
    [InlineData("{}", 1)]
    [InlineData("""{"__metadata__":{"k":1}}""", 0)]
    [InlineData("""{"__metadata__":{},"__metadata__":{}}""", 0)]
    [InlineData("""{"__metadata__":{"k":"1","k":"2"}}""", 0)]
    [InlineData("""{"__metadata__":{"k":"1","\u006b":"2"}}""", 0)]
    [InlineData("""{"a\u0000":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a\u001b[31m":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a\n":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U\u001b","shape":[2],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":1}""", 0)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U9","shape":[2],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"more":1}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"shape":[2],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2,3]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[-2],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2e0],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[9223372036854775807,4],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[9223372036854775805,9223372036854775807]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}""", 3)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 1)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 3)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}""", 3)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}""", 5)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}""", 4)]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"\u0061":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}""", 4)]
    [InlineData("""{"\ud800":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 2)]
    [InlineData("""{"a":{"dtype":"U8","shape":[[[[[[2]]]]]],"data_offsets":[0,2]}}""", 2)]
    public void RefusesBrokenHeaders(string header, int dataBytes) => AssertRefused(FileOf(header, dataBytes));

    [Fact]
    public void RefusesHeadersOverTheLimit()
    {
        byte[] file = new byte[16];
        foreach (ulong size in (ulong[])[9, 100_000_001, ulong.MaxValue])
        {
            BinaryPrimitives.WriteUInt64LittleEndian(file, size);
            Assert.Contains($"{size}", AssertRefused(file), StringComparison.Ordinal);
        }
    }

    [Fact]
    public void RefusesEveryTruncation()
    {
        byte[] file = FileOf(Good, 6);
        for (int length = 0; length < file.Length; length++) AssertRefused(file[..length]);
    }

    [Fact]
    public void FlippedBitsReadOrAreRefused()
    {
        byte[] file = FileOf(Good, 6);
        for (int bit = 0; bit < (file.Length - 6) * 8; bit++)
        {
            byte[] damaged = [.. file];
            damaged[bit / 8] ^= (byte)(1 << (bit % 8));
            File.WriteAllBytes(Target, damaged);
            try
            {
                using SafetensorsFile opened = SafetensorsFile.Open(Target);
                Assert.All(opened.Tensors.Values, t => Assert.True(t.Offset + t.Bytes <= damaged.Length, $"bit {bit}: {t}"));
            }
            catch (CheckpointException e)
            {
                Assert.Contains(Target, e.Message, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void OpensManyTensorsInUnderASecond()
    {
        const int count = 150_000;
        var header = new StringBuilder("{");
        for (int i = 0; i < count; i++)
        {
            header.Append(i == 0 ? "" : ",").Append(
                $$"""
                "model.layers.{{i / 3000}}.mlp.experts.{{i % 3000}}.gate_proj.weight":{"dtype":"U8","shape":[1,1],"data_offsets":[{{i}},{{i + 1}}]}
                """);
        }
        File.WriteAllBytes(Target, FileOf(header.Append('}').ToString(), count));
        SafetensorsFile.Open(Target).Dispose();
        double best = double.MaxValue;
        for (int round = 0; round < 10 && best >= 1; round++) // other tests run beside this one
        {
            var watch = Stopwatch.StartNew();
            using SafetensorsFile file = SafetensorsFile.Open(Target);
            best = Math.Min(best, watch.Elapsed.TotalSeconds);
            Assert.Equal(count, file.Tensors.Count);
        }
        Assert.True(best < 1, $"{count} tensors took {best:F2} s");
    }

    [Fact]
    public void WritesSortedAndPaddedAndReadsBack()
    {
        SafetensorsWriter.Write(Target,
        [
            TensorToWrite.Of("z", "U8", [3], new byte[] { 1, 2, 3 }),
            TensorToWrite.Of("b", "F32", [1], new byte[] { 4, 5, 6, 7 }),
            TensorToWrite.Of("a", "F32", [], new byte[] { 8, 9, 10, 11 }),
        ]);
        Assert.Equal(0UL, BinaryPrimitives.ReadUInt64LittleEndian(File.ReadAllBytes(Target)) % 8);
        using SafetensorsFile file = SafetensorsFile.Open(Target);
        Assert.Equal(["a", "b", "z"], file.Tensors.Values.OrderBy(t => t.Offset).Select(t => t.Name));
        Assert.Equal([1, 2, 3], file.Data("z").ToArray());
        Assert.Equal([8, 9, 10, 11], file.Data("a").ToArray());
    }

    [Fact]
    public void AFailedWriteLeavesTheOldFileAndNothingElse()
    {
        File.WriteAllText(Target, "old");
        Assert.Throws<ArgumentException>(() => SafetensorsWriter.Write(Target, [TensorToWrite.Of("a", "U8", [3], new byte[2])]));
        Assert.Equal("old", File.ReadAllText(Target));
        Assert.Equal([Target], Directory.GetFiles(_folder));
    }

    /// <summary>Whatever a callback throws comes out as it is or, from the disk, as one sentence; the old file stays, and nothing else.</summary>
    [Fact]
    public void ACallbackThatThrowsLeavesTheOldFileAndNothingElse()
    {
        foreach (Exception thrown in
            (Exception[])[new OperationCanceledException(), new InvalidDataException("odd"), new IOException("the disk is full")])
        {
            foreach (bool exists in (bool[])[false, true])
            {
                if (exists) File.WriteAllText(Target, "old");
                Exception caught = Assert.ThrowsAny<Exception>(() => SafetensorsWriter.Write(Target,
                [
                    TensorToWrite.Of("a", "F32", [1 << 20], new byte[4 << 20]), // more than any buffer
                    new("b", "U8", [3], stream =>
                    {
                        stream.Write([1, 2]);
                        throw thrown;
                    }),
                ]));
                bool isSentence = caught is IOException && caught.Message.Contains(Target) && caught.InnerException == thrown;
                Assert.True(ReferenceEquals(caught, thrown) || isSentence, $"{caught}");
                Assert.Equal(exists ? [Target] : [], Directory.GetFiles(_folder));
                if (exists) Assert.Equal("old", File.ReadAllText(Target));
                File.Delete(Target);
            }
        }
    }

    [Fact]
    public void RefusesToWriteWhatReadersRefuse()
    {
        void Refuses(string word, TensorToWrite tensor, Dictionary<string, string>? metadata = null)
        {
            Assert.Contains(word, Assert.Throws<ArgumentException>(() => SafetensorsWriter.Write(Target, [tensor], metadata)).Message);
            Assert.Empty(Directory.GetFiles(_folder));
        }

        TensorToWrite fine = TensorToWrite.Of("a", "U8", [1], new byte[1]);
        Refuses("100000000", fine, new() { ["k"] = new string('x', 100_000_000) });
        Refuses("control character", fine with { Name = "a\u001b" });
        Refuses("[-1]", fine with { Shape = [-1] });
        Refuses("[4611686018427387904, 2]", fine with { Shape = [1L << 62, 2] });
        Refuses("whole bytes", fine with { Type = "F4", Shape = [3] });
    }

    /// <summary>Sparse: the file takes no room.</summary>
    [Fact]
    public void TensorsOver2GiBAreMappedButNotGivenAsOneSpan()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "files are not sparse by themselves on Windows");
        const long bytes = (1L << 31) + 5;
        byte[] header = FileOf($$"""
            {"big":{"dtype":"U8","shape":[{{bytes}}],"data_offsets":[0,{{bytes}}]}, "small":{"dtype":"U8","shape":[2],"data_offsets":[{{bytes}},{{bytes + 2}}]} }
            """, 0);
        using (FileStream stream = File.Create(Target))
        {
            stream.Write(header);
            stream.SetLength(header.Length + bytes + 2);
            stream.Position = stream.Length - 1;
            stream.WriteByte(7);
        }
        using SafetensorsFile file = SafetensorsFile.Open(Target);
        Assert.Equal([0, 7], file.Data("small").ToArray());
        Assert.Contains($"{bytes}", Assert.Throws<CheckpointException>(() => file.Data("big").Length).Message);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static byte[] FileOf(string header, int dataBytes)
    {
        byte[] json = Encoding.UTF8.GetBytes(header), file = new byte[8 + json.Length + dataBytes];
        BinaryPrimitives.WriteUInt64LittleEndian(file, (ulong)json.Length);
        json.CopyTo(file, 8);
        return file;
    }

    private string AssertRefused(byte[] file)
    {
        File.WriteAllBytes(Target, file);
        string message = Assert.Throws<CheckpointException>(() => SafetensorsFile.Open(Target).Dispose()).Message;
        Assert.Contains(Target, message, StringComparison.Ordinal);
        Assert.DoesNotContain(message, char.IsControl);
        return message;
    }
}
