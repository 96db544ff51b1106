namespace MoeSharp;

/// <summary>Files that are never half-written: they get their name when everything is on the disk.</summary>
internal static class WholeFile
{
    private const int BufferBytes = 1 << 20;

    /// <summary>Writes a file under another name beside it, then renames it; where that fails, nothing is left and an older file stays.</summary>
    /// <exception cref="IOException">The disk refused.</exception>
    public static void Write(string path, Action<Stream> write)
    {
        string temporary = $"{Path.GetFullPath(path)}.{Environment.ProcessId}.tmp";
        try
        {
            using (FileStream stream = new(temporary, FileMode.Create, FileAccess.Write, FileShare.None, BufferBytes))
            {
                write(stream);
                stream.Flush(flushToDisk: true);
            }
            File.Move(temporary, path, overwrite: true);
        }
        catch (Exception e)
        {
            if (File.Exists(temporary)) File.Delete(temporary);
            if (e is not (IOException or UnauthorizedAccessException)) throw;
            string reason = e.Message.Replace($" : '{temporary}'", "", StringComparison.Ordinal).TrimEnd('.'); // a name that means nothing to anybody else
            throw new IOException($"{path} cannot be written: {reason}.", e);
        }
    }
}
