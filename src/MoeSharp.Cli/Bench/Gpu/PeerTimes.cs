using System.Globalization;
using System.Reflection;

namespace MoeSharp.Cli;

/// <summary>What others took for the same layer and routing on the machine that <see cref="Notes"/> names, in microseconds; NaN where nobody measured.</summary>
/// <param name="Shape">Name of a <see cref="BenchShape"/>.</param>
/// <param name="Routing">With its default seed.</param>
/// <param name="Tokens">T.</param>
/// <param name="Slots">Of local experts.</param>
/// <param name="ExpertsHit">Local experts with a slot.</param>
/// <param name="MostRows">Of one expert.</param>
/// <param name="Floor">As the table states it.</param>
/// <param name="Times">In the order of <see cref="Columns"/>.</param>
internal sealed record PeerTimes(
    string Shape, RoutingKind Routing, int Tokens, int Slots, int ExpertsHit, int MostRows, double Floor, IReadOnlyList<double> Times)
{
    private const int FirstPeer = 7;
    private static readonly Lazy<(string[] Notes, string[] Columns, PeerTimes[] Rows)> s_table = new(Read);

    /// <summary>Machine, versions, date and method, in sentences.</summary>
    public static IReadOnlyList<string> Notes => s_table.Value.Notes;

    /// <summary>Names of the peers.</summary>
    public static IReadOnlyList<string> Columns => s_table.Value.Columns;

    /// <summary>All that was measured.</summary>
    public static IReadOnlyList<PeerTimes> All => s_table.Value.Rows;

    /// <summary>Shapes that were measured, in the table's order.</summary>
    public static IEnumerable<BenchShape> Shapes => All.Select(row => row.Shape).Distinct().Select(BenchShape.Parse);

    /// <summary>The fastest.</summary>
    public double Best => Times.Where(time => !double.IsNaN(time)).Min();

    /// <summary>Name of the fastest.</summary>
    public string BestName => Columns[Times.ToList().IndexOf(Best)];

    /// <summary>The seed's own path: the first column.</summary>
    public double DeepGemm => Times[0];

    /// <summary>The row with this layer and routing, or null.</summary>
    public static PeerTimes? Of(string shape, RoutingKind routing, int tokens) =>
        All.FirstOrDefault(row => row.Shape == shape && row.Routing == routing && row.Tokens == tokens);

    private static (string[], string[], PeerTimes[]) Read()
    {
        using var reader = new StreamReader(Assembly.GetExecutingAssembly().GetManifestResourceStream("peers-h200.csv")!);
        string[] lines = reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        string[] notes = [.. lines.TakeWhile(line => line[0] == '#').Select(line => line[2..])];
        return (notes, lines[notes.Length].Split(',')[FirstPeer..], [.. lines.Skip(notes.Length + 1).Select(Parse)]);
    }

    private static PeerTimes Parse(string line)
    {
        string[] cells = line.Split(',');
        return new(cells[0], cells[1] == "zipf" ? RoutingKind.Zipf : RoutingKind.Uniform, Whole(cells[2]), Whole(cells[3]), Whole(cells[4]), Whole(cells[5]),
            Number(cells[6]), [.. cells.Skip(FirstPeer).Select(Number)]);
    }

    private static int Whole(string cell) => int.Parse(cell, CultureInfo.InvariantCulture);

    private static double Number(string cell) => cell.Length == 0 ? double.NaN : double.Parse(cell, CultureInfo.InvariantCulture);
}
