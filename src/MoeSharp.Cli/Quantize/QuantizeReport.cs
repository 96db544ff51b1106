using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>What quantizing did to every layer and expert.</summary>
internal sealed class QuantizeReport(string model, string output, WeightFormat format, IReadOnlyList<QuantizationError> errors)
{
    public void WriteTable(Terminal terminal, bool perExpert)
    {
        var table = new Table().Border(TableBorder.Simple).AddColumn("layer").AddColumn("part");
        foreach (string column in (string[])["relative error", "SNR dB", "worst expert", "saturated", "dead blocks"])
            table.AddColumn(new TableColumn(column).RightAligned());
        foreach (IGrouping<int, QuantizationError> layer in errors.GroupBy(e => e.Layer))
        {
            QuantizationError[] experts = [.. layer.Where(e => e.Part >= 0)];
            if (perExpert) foreach (QuantizationError expert in experts) AddRow(table, expert, NameOf(expert), "");
            if (!perExpert && experts.Length > 0)
            {
                QuantizationError worst = experts.MaxBy(e => e.Relative)!;
                QuantizationError sum = experts.Aggregate((a, b) => a + b);
                AddRow(table, sum, Units.Plural(experts.Length, "expert"), $"{worst.Part}: {Units.Error(worst.Relative)}");
            }
            foreach (QuantizationError other in layer.Where(e => e.Part < 0)) AddRow(table, other, NameOf(other), "");
        }
        terminal.Write(table);
        QuantizationError all = errors.Aggregate((a, b) => a + b);
        terminal.WriteLine(
            $"{output}: {Units.Count(all.Values)} weights in {Names.Of(format)}, {(all.Relative == 0 ? "every value exact" : $"relative error {Units.Error(all.Relative)}, SNR {Decibels(all)} dB")}");
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        json.WriteString("model", model);
        json.WriteString("output", output);
        json.WriteString("format", Names.Of(format));
        json.WriteStartObject("total");
        Write(json, errors.Aggregate((a, b) => a + b));
        json.WriteEndObject();
        json.WriteStartArray("layers");
        foreach (IGrouping<int, QuantizationError> layer in errors.GroupBy(e => e.Layer))
        {
            json.WriteStartObject();
            json.WriteNumber("layer", layer.Key);
            json.WriteStartArray("experts");
            foreach (QuantizationError expert in layer.Where(e => e.Part >= 0))
            {
                json.WriteStartObject();
                json.WriteNumber("expert", expert.Part);
                Write(json, expert);
                json.WriteEndObject();
            }
            json.WriteEndArray();
            foreach (QuantizationError other in layer.Where(e => e.Part < 0))
            {
                json.WriteStartObject(NameOf(other).Replace(' ', '_'));
                Write(json, other);
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }

    private static void AddRow(Table table, QuantizationError e, string part, string worst) => table.AddRow(
        $"{e.Layer}", part, Units.Error(e.Relative), Decibels(e), worst,
        $"{Units.Number(100 * e.SaturatedShare)} %", $"{Units.Count(e.DeadBlocks)} of {Units.Count(e.Blocks)}");

    private static void Write(Utf8JsonWriter json, QuantizationError e)
    {
        json.WriteNumber("relative_error", e.Relative);
        if (double.IsFinite(e.Decibels)) json.WriteNumber("snr_db", e.Decibels);
        else json.WriteNull("snr_db");
        json.WriteNumber("saturated_share", e.SaturatedShare);
        json.WriteNumber("blocks", e.Blocks);
        json.WriteNumber("dead_blocks", e.DeadBlocks);
    }

    private static string Decibels(QuantizationError e) => double.IsFinite(e.Decibels) ? Units.Number(e.Decibels) : "exact";

    private static string NameOf(QuantizationError e) => e.Part switch
    {
        QuantizationError.Shared => "shared experts",
        QuantizationError.Linear => "other linears",
        _ => $"expert {e.Part}",
    };
}
