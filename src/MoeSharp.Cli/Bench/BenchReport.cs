using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>What a bench found out, as a table and as JSON.</summary>
internal sealed class BenchReport(BenchLayer layer, IReadOnlyList<BenchCase> cases, Ceilings ceilings, int threads, string? chosen)
{
    private const long CacheBytes = 256 << 20; // more than most last-level caches

    public void WriteTable(Terminal terminal)
    {
        ExpertsShape shape = layer.Shape;
        terminal.WriteLine($"{layer.Name}: {Names.Of(shape)}");
        terminal.WriteLine($"{layer.Experts.Backend.Name}: {layer.Experts.Description}");
        if (chosen is not null) terminal.WriteLine($"Chosen by auto, {chosen}");
        var table = new Table().Border(TableBorder.Simple);
        foreach (string column in (string[])["tokens", "ms", "bytes", "GB/s", "of read", "GFLOP/s", "of peak", "repetitions"])
            table.AddColumn(new TableColumn(column).RightAligned());
        foreach (BenchCase row in cases)
            table.AddRow(Units.Count(row.Tokens), Units.Number(row.MedianMilliseconds), Units.Bytes(row.Bytes),
                Units.Number(row.GigabytesPerSecond), Units.Percent(row.GigabytesPerSecond / ceilings.ReadGBPerS),
                Units.Number(row.GigaflopPerSecond), Units.Percent(row.GigaflopPerSecond / ceilings.PeakGFlopPerS()), Units.Count(row.Repetitions));
        terminal.Write(table);
        terminal.WriteLine($"Ceilings, measured between the rounds on {threads} threads: {ceilings.InWords()}.");
        if (layer.Bytes < CacheBytes)
            terminal.WriteLine($"All experts together are {Units.Bytes(layer.Bytes)}: they may stay in caches, so that GB/s can pass what memory gives.");
        if (shape.Experts != shape.GlobalExperts)
            terminal.WriteLine($"FLOP and bytes count only the slots that go to the {shape.Experts} local experts.");
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        Machine.Write(json, threads);
        ceilings.WriteJson(json);
        json.WriteString("chosen", chosen);
        json.WriteStartArray("results");
        foreach (BenchCase row in cases)
        {
            json.WriteStartObject();
            json.WriteString("shape", layer.Name);
            json.WriteNumber("tokens", row.Tokens);
            json.WriteString("format", Names.Of(layer.Shape.Format));
            json.WriteString("activations", Names.Of(layer.Shape.Activations));
            json.WriteString("backend", layer.Experts.Backend.Name);
            json.WriteString("kernel", layer.Experts.Description);
            json.WriteNumber("median_ms", row.MedianMilliseconds);
            json.WriteNumber("bytes", row.Bytes);
            json.WriteNumber("flops", row.Flops);
            json.WriteNumber("gb_per_s", row.GigabytesPerSecond);
            json.WriteNumber("gflop_per_s", row.GigaflopPerSecond);
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }
}
