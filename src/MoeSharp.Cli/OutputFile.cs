namespace MoeSharp.Cli;

/// <summary>A file that a verb writes where an option says.</summary>
internal static class OutputFile
{
    /// <summary>Finds out before anything is computed whether the file could be written, and that it takes no checkpoint's place.</summary>
    /// <param name="option">Names the file.</param>
    /// <param name="path">As typed.</param>
    /// <param name="model">Folder of the checkpoint that the verb reads; null: none.</param>
    /// <exception cref="ArgumentException">It is a folder, lies in one that does not exist, or lies inside the checkpoint.</exception>
    public static void Check(string option, string path, string? model)
    {
        string full = Path.GetFullPath(path);
        if (Directory.Exists(full)) throw new ArgumentException($"{option} is '{path}', which is a folder; name a file in it.");
        string? folder = Path.GetDirectoryName(full);
        if (!Directory.Exists(folder)) throw new ArgumentException($"{option} is '{path}' but there is no folder '{folder}'; create it first.");
        if (model is not null && ConversionFolder.IsInside(full, model))
            throw new ArgumentException($"{option} is '{path}', which lies inside the checkpoint {model}; name a file outside of it.");
    }
}
