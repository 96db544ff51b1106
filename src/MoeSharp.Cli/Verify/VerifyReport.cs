using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>What verifying found out, as a table and as JSON.</summary>
internal sealed class VerifyReport(string model, string backend, string? chosen, int tokens, int rows, IReadOnlyList<LayerCheck> layers)
{
    private const int MostFailuresShown = 10;

    public bool Passed => layers.All(layer => layer.Passed);

    public void WriteTable(Terminal terminal)
    {
        string sampled = rows < tokens ? $", {rows} sampled rows" : "";
        string formats = string.Join(
            "; ", layers.Select(layer => $"{Names.Of(layer.Shape.Format)} weights, {Names.Of(layer.Shape.Activations)} activations").Distinct());
        terminal.WriteLine($"{model}: {backend} against reference, {tokens} tokens{sampled}, {formats}");
        if (chosen is not null) terminal.WriteLine($"Chosen by auto, {chosen}");
        var table = new Table().Border(TableBorder.Simple).AddColumns("layer", "compared");
        foreach (string column in (string[])["max error", "relative", "calc_diff", "allowed"])
            table.AddColumn(new TableColumn(column).RightAligned());
        table.AddColumn("verdict");
        foreach (LayerCheck layer in layers)
        {
            AddRow(table, $"{layer.Layer}", layer.IdsEqual ? "whole layer" : "whole layer, ids differ", layer.Whole, layer.Tolerance,
                layer.WholePassed);
            AddRow(table, "", $"worst of {layer.Experts.Count} experts: {layer.Worst.Expert}", layer.Worst.Error, layer.Tolerance,
                layer.Worst.Passed);
        }
        terminal.Write(table);
        WriteFailures(terminal);
        terminal.WriteLine(Passed
            ? $"Agrees with the reference: {Units.Plural(layers.Count, "layer")}, {Units.Plural(layers.Sum(layer => layer.Experts.Count), "expert")}."
            : $"Does not agree with the reference: {layers.Count(layer => !layer.Passed)} of {Units.Plural(layers.Count, "layer")}.");
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        json.WriteString("model", model);
        json.WriteString("backend", backend);
        json.WriteString("chosen", chosen);
        json.WriteNumber("tokens", tokens);
        json.WriteNumber("rows", rows);
        json.WriteBoolean("passed", Passed);
        json.WriteStartArray("layers");
        foreach (LayerCheck layer in layers) layer.Write(json);
        json.WriteEndArray();
    }

    private void WriteFailures(Terminal terminal)
    {
        foreach (LayerCheck layer in layers)
        {
            ExpertCheck[] failed = [.. layer.Experts.Where(expert => !expert.Passed)];
            foreach (ExpertCheck expert in failed.Take(MostFailuresShown))
                terminal.WriteLine($"layer {layer.Layer}, expert {expert.Expert}: {expert.Error}, allowed {Units.Error(layer.Tolerance)}");
            if (failed.Length > MostFailuresShown)
                terminal.WriteLine($"layer {layer.Layer}: {failed.Length - MostFailuresShown} more experts failed; --json lists them all");
        }
    }

    private static void AddRow(Table table, string layer, string compared, Accuracy accuracy, double tolerance, bool passed) => table.AddRow(
        new Text(layer), new Text(compared), Figure(accuracy.MaxAbsolute), Figure(accuracy.RelativeL2), Figure(accuracy.CalcDiff),
        Figure(tolerance), new Text(passed ? "ok" : "FAILED", passed ? new Style(Color.Green) : new Style(Color.Red)));

    private static Text Figure(double value) => new Text(Units.Error(value)).RightJustified();
}
