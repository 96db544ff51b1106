using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>What a bench on a GPU found out, as tables and as JSON. Times are microseconds.</summary>
internal sealed class GpuReport(GpuBench bench, CudaBackend backend, string? chosen)
{
    public void WriteTables(Terminal terminal)
    {
        terminal.WriteLine(GpuMachine.InWords(backend));
        if (chosen is not null) terminal.WriteLine($"Chosen by auto, {chosen}");
        foreach (IGrouping<string, GpuCase> layer in bench.Cases.GroupBy(row => row.Layer))
        {
            GpuCase first = layer.First();
            terminal.WriteLine();
            terminal.WriteLine($"{first.Layer}, {(first.Routing == RoutingKind.Zipf ? "zipf" : "uniform")} routing: {Names.Of(first.Shape)}");
            terminal.Write(Times([.. layer]));
            terminal.Write(Steps([.. layer]));
            if (layer.Any(row => row.Peers is not null)) terminal.Write(Peers([.. layer]));
        }
        DeviceCeilings best = bench.Ceilings;
        terminal.WriteLine();
        terminal.WriteLine($"Ceilings of this GPU, measured in between: read {Units.Number(best.ReadGBPerS)} GB/s, fill {Units.Number(best.FillGBPerS)} GB/s, " +
            $"copy {Units.Number(best.CopyGBPerS)} GB/s, FP8 products {Units.Number(best.Fp8TFlopPerS)} TFLOP/s.");
        terminal.WriteLine("All times are microseconds. cold: a captured call after a sweep that empties the second-level cache, median of 15. hot: calls one after the other.");
        terminal.WriteLine("floor: bytes at 4.65 TB/s or operations at 1480 TFLOP/s, whichever takes longer; own: the same at this GPU's ceilings.");
        terminal.WriteLine("Launches by themselves do not overlap, and gateup and down share one where experts have few rows, so their sum exceeds the cold time. host: of this library per call without a graph; driver: in its launch calls.");
        if (bench.Cases.Any(row => row.Peers is not null))
            foreach (string note in PeerTimes.Notes) terminal.WriteLine(note);
    }

    private static Table Table(params string[] columns)
    {
        var table = new Table().Border(TableBorder.Simple);
        foreach (string column in columns) table.AddColumn(new TableColumn(column).RightAligned());
        return table;
    }

    private Table Times(GpuCase[] rows)
    {
        Table table = Table("tokens", "slots", "experts", "cold", "hot", "floor", "x floor", "x own", "GB/s", "TFLOP/s");
        foreach (GpuCase row in rows)
            table.AddRow(Units.Count(row.Tokens), Units.Count(row.Load.Total), Units.Count(row.Load.Active), Microseconds(row.Cold), Microseconds(row.Hot), Microseconds(row.Floor),
                Ratio(row.Cold / row.Floor), Ratio(row.OfOwn(bench.Ceilings)), Units.Number(row.GBPerS), Units.Number(row.TFlopPerS));
        return table;
    }

    private static Table Steps(GpuCase[] rows)
    {
        string[] names = [.. rows.SelectMany(Named).Select(step => step.Name).Distinct()];
        Table table = Table(["tokens", "launches", .. names, "host", "driver"]);
        foreach (GpuCase row in rows)
        {
            var times = Named(row).ToDictionary(step => step.Name, step => step.Microseconds);
            table.AddRow([Units.Count(row.Tokens), Units.Count(row.Launches), .. names.Select(name => Microseconds(times.GetValueOrDefault(name, double.NaN))),
                Microseconds(row.Host), Microseconds(row.Driver)]);
        }
        return table;
    }

    private static Table Peers(GpuCase[] rows)
    {
        Table table = Table(["tokens", "cold", .. PeerTimes.Columns, "best peer", "peer / cold", "dg / cold"]);
        foreach (GpuCase row in rows)
            if (row.Peers is { } peers)
                table.AddRow([Units.Count(row.Tokens), Microseconds(row.Cold), .. peers.Times.Select(Microseconds), peers.BestName, Ratio(peers.Best / row.Cold),
                    Ratio(peers.DeepGemm / row.Cold)]);
        return table;
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        Machine.Write(json, Environment.ProcessorCount);
        GpuMachine.Write(json, backend);
        bench.Ceilings.WriteJson(json);
        json.WriteString("chosen", chosen);
        json.WriteStartArray("peers");
        foreach (string note in PeerTimes.Notes) json.WriteStringValue(note);
        json.WriteEndArray();
        json.WriteStartArray("results");
        foreach (GpuCase row in bench.Cases) WriteJson(json, row);
        json.WriteEndArray();
    }

    private void WriteJson(Utf8JsonWriter json, GpuCase row)
    {
        json.WriteStartObject();
        json.WriteString("shape", row.Layer);
        json.WriteString("routing", row.Routing == RoutingKind.Zipf ? "zipf" : "uniform");
        json.WriteNumber("tokens", row.Tokens);
        json.WriteString("format", Names.Of(row.Shape.Format));
        json.WriteString("activations", Names.Of(row.Shape.Activations));
        json.WriteString("backend", backend.Name);
        json.WriteNumber("slots", row.Load.Total);
        json.WriteNumber("experts_hit", row.Load.Active);
        json.WriteNumber("most_rows", row.Load.Most);
        json.WriteNumber("bytes", row.Bytes);
        json.WriteNumber("flops", row.Flops);
        json.WriteNumber("cold_us", row.Cold);
        json.WriteNumber("hot_us", row.Hot);
        json.WriteNumber("floor_us", row.Floor);
        json.WriteNumber("times_floor", row.Cold / row.Floor);
        json.WriteNumber("times_own", row.OfOwn(bench.Ceilings));
        json.WriteNumber("gb_per_s", row.GBPerS);
        json.WriteNumber("tflop_per_s", row.TFlopPerS);
        json.WriteNumber("launches", row.Launches);
        json.WriteNumber("host_us", row.Host);
        json.WriteNumber("driver_us", row.Driver);
        json.WriteStartObject("steps_us");
        foreach ((string name, double time) in Named(row)) json.WriteNumber(name, time);
        json.WriteEndObject();
        if (row.Peers is { } peers)
        {
            json.WriteStartObject("peers_us");
            for (int i = 0; i < peers.Times.Count; i++)
                if (!double.IsNaN(peers.Times[i])) json.WriteNumber(PeerTimes.Columns[i], peers.Times[i]);
            json.WriteEndObject();
            json.WriteString("best_peer", peers.BestName);
            json.WriteNumber("best_peer_us", peers.Best);
            json.WriteNumber("best_peer_over_cold", peers.Best / row.Cold);
        }
        json.WriteEndObject();
    }

    /// <summary>Launches by what they compute; one alone computes everything.</summary>
    private static IEnumerable<(string Name, double Microseconds)> Named(GpuCase row) =>
        row.Steps.Select(step => (row.Steps.Count > 1 ? Name(step.Step) : WideKernels.Serve(row.Shape.Format, row.Shape.Activations) ? "experts_few_wide" : "experts_few", step.Microseconds));

    /// <summary>A launch by what it computes.</summary>
    private static string Name(Step step) => step switch
    {
        Step.Quantize => "quantize_permute",
        Step.GateUp => "gateup",
        Step.Down => "down",
        Step.Combine => "combine",
        _ => step.ToString().ToLowerInvariant(),
    };

    /// <summary>As the peers' table: a decimal below 1000.</summary>
    private static string Microseconds(double time) =>
        double.IsNaN(time) ? "-" : time.ToString(time < 1000 ? "0.0" : "0", System.Globalization.CultureInfo.InvariantCulture);

    private static string Ratio(double ratio) => ratio.ToString("0.00", System.Globalization.CultureInfo.InvariantCulture);
}
