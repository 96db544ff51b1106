namespace MoeSharp.Tests;

public sealed class WholeFileTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void AFullDiskLeavesTheOlderFileAndOneSentence()
    {
        string path = _folder["x.png"];
        WholeFile.Write(path, stream => stream.WriteByte(1));
        var full = Assert.Throws<IOException>(() => WholeFile.Write(path, stream =>
        {
            stream.WriteByte(2);
            throw new IOException($"No space left on device : '{((FileStream)stream).Name}'"); // as Linux says it
        }));
        Assert.Equal($"{path} cannot be written: No space left on device.", full.Message);
        Assert.Equal([path], Directory.GetFiles(_folder.Root));
        Assert.Equal([1], File.ReadAllBytes(path));
    }

    [Fact]
    public void WhatFailsForAnotherReasonSaysThatReason()
    {
        Assert.Throws<OperationCanceledException>(() => WholeFile.Write(_folder["x"], _ => throw new OperationCanceledException()));
        Assert.Empty(Directory.GetFiles(_folder.Root));
    }
}
