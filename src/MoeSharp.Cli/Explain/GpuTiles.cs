using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>How a GPU cuts the rows of one call into tiles, and why: what its scheduler decides on the device from each expert's number of rows.</summary>
internal sealed record GpuTiles
{
    private const string NarrowWhy = "weights on the M side of the tensor core and rows on the N side in steps of 8, so that few rows waste nothing";
    private const string TallWhy = "rows on the M side, 64 at a time, so that each weight serves more of them";
    private const string DeepWhy = "one block of 128 weight rows, 128 values deep: more units and longer copies";
    private const string TwoBlocksWhy = "two blocks of weight rows, so that rows are read half as often";

    /// <summary>At most so many rows go into a tile.</summary>
    public required int MostRows { get; init; }

    /// <summary>At most so many rows of a tile (of an expert, where they are BF16) are few.</summary>
    public required int FewRows { get; init; }

    /// <summary>Tiles of few rows.</summary>
    public required int Few { get; init; }

    /// <summary>Tiles of more.</summary>
    public required int Many { get; init; }

    private bool IsWide { get; init; }

    public static GpuTiles Of(ExpertsShape shape, ExpertLoad load)
    {
        bool isWide = WideKernels.Serve(shape.Format, shape.Activations);
        int most = isWide ? DevicePlan.WideTileRows : DevicePlan.TileRows;
        int few = !isWide ? DevicePlan.NarrowRows : DevicePlan.HasTallUnits(shape.Format) ? DevicePlan.WideFewRows : int.MaxValue;
        int[] tiles = [.. load.Rows.SelectMany(rows => DevicePlan.TilesOf(rows, most).Select(tile => isWide ? rows : tile))];
        int fewTiles = tiles.Count(rows => rows <= few);
        return new() { IsWide = isWide, MostRows = most, FewRows = Math.Min(few, most), Few = fewTiles, Many = tiles.Length - fewTiles };
    }

    public IEnumerable<(string Name, string Value)> Facts()
    {
        yield return ("tile", $"at most {MostRows} rows of one expert, cut evenly; up to {FewRows} rows: {(IsWide ? DeepWhy : NarrowWhy)}{(FewRows == MostRows ? "" : $"; more: {(IsWide ? TwoBlocksWhy : TallWhy)}")}");
        yield return ("work", $"{Units.Plural(Few, "tile")} of few rows, {Many} of more");
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        json.WriteStartObject("tile");
        json.WriteNumber("most_rows", MostRows);
        json.WriteNumber("few_rows", FewRows);
        json.WriteNumber("tiles_of_few_rows", Few);
        json.WriteNumber("tiles_of_more_rows", Many);
        json.WriteEndObject();
    }
}
