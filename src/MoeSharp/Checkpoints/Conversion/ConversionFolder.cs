namespace MoeSharp;

/// <summary>
/// A folder under construction. Files grow in "DIR.partial/files", each appearing under its name only when it is whole; at the end that folder
/// becomes DIR in one rename. So DIR is absent or complete, and an interrupted run goes on where it stopped.
/// </summary>
internal sealed class ConversionFolder : IDisposable
{
    private readonly string _output, _partial;
    private readonly FileStream _lock;

    private ConversionFolder(string output, string partial, FileStream @lock)
    {
        _output = output;
        _partial = partial;
        _lock = @lock;
        Files = Path.Combine(partial, "files");
    }

    /// <summary>Where files are written.</summary>
    public string Files { get; }

    /// <summary>Starts, or goes on with what a run with the same settings left.</summary>
    /// <exception cref="ArgumentException">The folder exists, another process is writing it, or an interrupted run had other settings.</exception>
    public static ConversionFolder Open(string output, string settings)
    {
        output = Path.TrimEndingDirectorySeparator(Path.GetFullPath(output));
        if (Path.Exists(output)) throw new ArgumentException($"{output} exists already; give --out a folder that does not.");
        string partial = PartialOf(output), settingsFile = Path.Combine(partial, "settings.txt");
        Directory.CreateDirectory(partial);
        var folder = new ConversionFolder(output, partial, Lock(partial));
        try
        {
            if (File.Exists(settingsFile) && File.ReadAllText(settingsFile) != settings)
                throw new ArgumentException(
                    $"{partial} is what an interrupted run with other options or another input left; delete it, or give the same options to go on.");
            if (!File.Exists(settingsFile)) WholeFile.Write(settingsFile, stream => stream.Write(System.Text.Encoding.UTF8.GetBytes(settings)));
            Directory.CreateDirectory(folder.Files);
            foreach (string left in Directory.GetFiles(folder.Files, "*.tmp", SearchOption.AllDirectories)) File.Delete(left);
            return folder;
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    /// <summary>Where a folder grows.</summary>
    public static string PartialOf(string output) => Path.TrimEndingDirectorySeparator(output) + ".partial";

    /// <summary>A file of the result.</summary>
    public string PathOf(string name) => Path.Combine(Files, name);

    /// <summary>A note beside the result, gone when it is complete.</summary>
    public string NoteOf(string name) => Path.Combine(_partial, name + ".note");

    /// <summary>Copies a file unless an interrupted run has done so.</summary>
    public void Copy(string from, string name)
    {
        string to = PathOf(name);
        if (File.Exists(to)) return;
        Directory.CreateDirectory(Path.GetDirectoryName(to)!);
        using FileStream source = File.OpenRead(from);
        WholeFile.Write(to, source.CopyTo);
    }

    /// <summary>Whether a path is a folder or leads into it.</summary>
    public static bool IsInside(string path, string folder)
    {
        string start = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder)) + Path.DirectorySeparatorChar;
        return (Path.GetFullPath(path) + Path.DirectorySeparatorChar).StartsWith(start, StringComparison.Ordinal);
    }

    /// <summary>The folder is complete.</summary>
    public void Commit()
    {
        Directory.Move(Files, _output);
        _lock.Dispose();
        Directory.Delete(_partial, recursive: true);
    }

    public void Dispose() => _lock.Dispose();

    private static FileStream Lock(string partial)
    {
        try
        {
            return new(Path.Combine(partial, "lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException e) when (e is not (FileNotFoundException or DirectoryNotFoundException))
        {
            throw new ArgumentException($"{partial} cannot be locked, perhaps because another run is writing it: {e.Message.TrimEnd('.')}.");
        }
    }
}
