using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

namespace MoeSharp;

/// <summary>SHA-256 of everything that decides what a layer's packed bytes are.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly record struct PackedKey(ulong A, ulong B, ulong C, ulong D)
{
    public static PackedKey Of(string text) => MemoryMarshal.Read<PackedKey>(SHA256.HashData(Encoding.UTF8.GetBytes(text)));

    public override string ToString() => Convert.ToHexStringLower(MemoryMarshal.AsBytes(new ReadOnlySpan<PackedKey>(in this)));
}

/// <summary>A folder of <see cref="PackedFile"/>s. Weights that were made in memory have no name to be found under, so they are never stored.</summary>
internal sealed class PackedCache(string folder)
{
    /// <summary>What an earlier process left for these weights and this order; null where nothing fits.</summary>
    public PackedFile? Open(ExpertWeights weights, TileOrder order, int downTilesPerChunk) =>
        KeyOf(weights, order, downTilesPerChunk) is { } key ? PackedFile.Open(PathOf(key), key) : null;

    /// <summary>Stores packed weights for later processes. A folder that cannot be written costs them time and nothing else.</summary>
    public void Store(ExpertWeights weights, TileOrder order, PackedWeights gateUp, PackedWeights down, bool hasNaN)
    {
        if (KeyOf(weights, order, down.TilesPerChunk) is not { } key) return;
        try
        {
            Directory.CreateDirectory(folder);
            PackedFile.Write(PathOf(key), key, gateUp, down, hasNaN);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // as said above
        }
    }

    private string PathOf(PackedKey key) => Path.Combine(folder, $"{key}.moepack");

    private static PackedKey? KeyOf(ExpertWeights weights, TileOrder order, int downTilesPerChunk) => weights.Source is { } source
        ? PackedKey.Of($"{PackedFile.Version} {weights.Format} {order} {weights.Count} {weights.HiddenSize} {weights.IntermediateSize} {downTilesPerChunk}\n{source}")
        : null;
}
