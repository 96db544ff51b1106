using System.Text;
using System.Text.Json.Nodes;

namespace MoeSharp;

/// <summary>Writes a checkpoint anew, shard by shard, with other tensors in it; everything else of the folder is copied.</summary>
internal abstract class Conversion(Checkpoint model)
{
    private const string IndexName = "model.safetensors.index.json", ConfigName = "config.json";

    protected Checkpoint Model => model;

    /// <summary>What tells this run from others: equal settings may go on with each other's work.</summary>
    protected abstract string Settings { get; }

    /// <summary>The tensors of a shard after conversion.</summary>
    /// <param name="shard">The shard; bytes are valid until it is disposed.</param>
    /// <param name="names">Its tensors.</param>
    /// <param name="cancel">Stops the work.</param>
    /// <param name="release">What to dispose after writing.</param>
    /// <param name="notes">Lines to keep with the shard, should the run be interrupted.</param>
    protected abstract List<TensorToWrite> Convert(
        SafetensorsFile shard, IReadOnlyList<TensorEntry> names, CancellationToken cancel, List<IDisposable> release, List<string> notes);

    /// <summary>config.json after conversion.</summary>
    /// <param name="config">To be changed.</param>
    /// <param name="leftAlone">Modules of two dimensions or more that are not FP8 in the result.</param>
    protected abstract void Edit(JsonObject config, IReadOnlyList<string> leftAlone);

    /// <summary>Does it, or finishes what an interrupted run has begun.</summary>
    /// <param name="output">The folder, which must not exist.</param>
    /// <param name="progress">Told which shard begins and how many are done.</param>
    /// <param name="cancel">Stops between matrices; the run can be resumed.</param>
    /// <returns>The notes of all shards.</returns>
    /// <exception cref="IOException">The disk is full, say; the message says how to go on.</exception>
    public IReadOnlyList<string> Run(string output, Action<string, double>? progress = null, CancellationToken cancel = default)
    {
        string[] shards = [.. model.Index.Files.Order(StringComparer.Ordinal)];
        RefuseInside(output);
        try
        {
            using ConversionFolder folder = ConversionFolder.Open(output, $"{Settings}\n{string.Join('\n', shards.Select(Identity))}\n");
            for (int i = 0; i < shards.Length; i++)
            {
                cancel.ThrowIfCancellationRequested();
                progress?.Invoke(shards[i], i);
                if (!File.Exists(folder.PathOf(shards[i]))) ConvertShard(folder, shards[i], cancel);
            }
            progress?.Invoke("other files", shards.Length);
            CopyOthers(folder, shards, cancel);
            WriteIndexAndConfig(folder, shards);
            string[] notes = [.. shards.SelectMany(s => File.ReadAllLines(folder.NoteOf(s)))];
            cancel.ThrowIfCancellationRequested();
            folder.Commit();
            return notes;
        }
        catch (OperationCanceledException e)
        {
            throw new OperationCanceledException($"Cancelled; {output} does not exist yet, and the same command goes on where it stopped ({ConversionFolder.PartialOf(output)}).", e, cancel);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new IOException(
                $"{output} could not be written: {e.Message.TrimEnd('.')}; mend that and give the same command to go on where it stopped.", e);
        }
    }

    private void ConvertShard(ConversionFolder folder, string name, CancellationToken cancel)
    {
        var release = new List<IDisposable>();
        var notes = new List<string>();
        using SafetensorsFile shard = SafetensorsFile.Open(Path.Combine(model.Path, name));
        try
        {
            TensorEntry[] entries =
            [
                .. shard.Tensors.Values.Where(t => model.Index.Has(t.Name) && model.Index.Find(t.Name).File.Path == shard.Path)
                    .OrderBy(t => t.Offset),
            ];
            List<TensorToWrite> tensors = Convert(shard, entries, cancel, release, notes);
            byte[] note = Encoding.UTF8.GetBytes(string.Concat(notes.Select(n => n + "\n")));
            WholeFile.Write(folder.NoteOf(name), stream => stream.Write(note));
            // The shard's own name is what says that it and its note are done.
            SafetensorsWriter.Write(folder.PathOf(name), tensors, new Dictionary<string, string> { ["format"] = "pt" });
        }
        finally
        {
            foreach (IDisposable item in release) item.Dispose();
        }
    }

    /// <summary>A tensor as it is.</summary>
    protected static TensorToWrite Unchanged(SafetensorsFile shard, TensorEntry entry, CancellationToken cancel) =>
        new(entry.Name, entry.Type, entry.Shape, stream => WriteBytes(stream, shard, entry, cancel));

    private static unsafe void WriteBytes(Stream stream, SafetensorsFile shard, TensorEntry entry, CancellationToken cancel)
    {
        const int chunk = 16 << 20;
        byte* start = shard.Pointer(entry);
        for (long at = 0; at < entry.Bytes; at += chunk)
        {
            cancel.ThrowIfCancellationRequested();
            stream.Write(new ReadOnlySpan<byte>(start + at, (int)Math.Min(chunk, entry.Bytes - at)));
        }
    }

    private void CopyOthers(ConversionFolder folder, string[] shards, CancellationToken cancel)
    {
        foreach (string path in Directory.EnumerateFiles(model.Path, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
        {
            cancel.ThrowIfCancellationRequested();
            string name = Path.GetRelativePath(model.Path, path);
            bool hidden = name.Split(Path.DirectorySeparatorChar)[..^1].Any(f => f.StartsWith('.'));
            if (!hidden && name is not (IndexName or ConfigName) && !shards.Contains(name)) folder.Copy(path, name);
        }
    }

    private void WriteIndexAndConfig(ConversionFolder folder, string[] shards)
    {
        var map = new SortedDictionary<string, string>(StringComparer.Ordinal);
        var leftAlone = new SortedSet<string>(StringComparer.Ordinal);
        long total = 0;
        foreach (string shard in shards)
        {
            using SafetensorsFile file = SafetensorsFile.Open(folder.PathOf(shard));
            foreach (TensorEntry tensor in file.Tensors.Values)
            {
                map.Add(tensor.Name, shard);
                total += tensor.Bytes;
                if (tensor.Shape.Length >= 2 && tensor.Type != "F8_E4M3" && LinearOf(tensor.Name) is { } module) leftAlone.Add(module);
            }
        }
        if (File.Exists(Path.Combine(model.Path, IndexName)))
        {
            var files = new JsonObject();
            foreach ((string tensor, string shard) in map) files.Add(tensor, JsonValue.Create(shard));
            var index = new JsonObject { ["metadata"] = new JsonObject { ["total_size"] = JsonValue.Create(total) }, ["weight_map"] = files };
            ConvertedJson.Write(folder.PathOf(IndexName), index);
        }
        JsonObject config = ConvertedJson.Read(Path.Combine(model.Path, ConfigName));
        Edit(config, [.. leftAlone]);
        ConvertedJson.Write(folder.PathOf(ConfigName), config);
    }

    /// <summary>The module of a linear layer's weight; null for embeddings, scales and whatever is no weight.</summary>
    private static string? LinearOf(string tensor)
    {
        if (tensor.Contains("embed_tokens", StringComparison.Ordinal)) return null;
        if (tensor.EndsWith("experts.gate_up_proj", StringComparison.Ordinal) || tensor.EndsWith("experts.down_proj", StringComparison.Ordinal))
            return tensor[..tensor.LastIndexOf('.')];
        return tensor.EndsWith(".weight", StringComparison.Ordinal) ? Piece.Module(tensor) : null;
    }

    private string Identity(string shard)
    {
        string path = Path.Combine(model.Path, shard);
        FileInfo file = new(File.ResolveLinkTarget(path, returnFinalTarget: true)?.FullName ?? path);
        if (!file.Exists) throw new CheckpointException($"{path} does not exist, though the index lists it.");
        return FormattableString.Invariant($"{path} {file.Length} {file.LastWriteTimeUtc.Ticks}");
    }

    private void RefuseInside(string output)
    {
        if (ConversionFolder.IsInside(output, model.Path))
            throw new ArgumentException($"{output} lies inside the checkpoint {model.Path}; give --out a folder outside of it.");
    }
}
