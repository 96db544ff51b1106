using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>What a checkpoint holds: a tree of the kinds of layers, a table of which layers are of which kind, or JSON layer by layer.</summary>
internal sealed class InspectReport(string model, string family, IReadOnlyList<(int Layer, LayerSummary Summary)> layers)
{
    private long Tensors => layers.Sum(layer => (long)layer.Summary.Tensors);

    private long Bytes => layers.Sum(layer => layer.Summary.Bytes);

    public void WriteTreeAndTable(Terminal terminal)
    {
        List<(string Layers, int Count, LayerSummary Summary)> runs = Runs();
        var tree = new Tree(new Text(
            $"{model}: {family}, {Units.Plural(layers.Count, "MoE layer")}, {Units.Plural(Tensors, "tensor")}, {Units.Bytes(Bytes)}"));
        foreach ((string range, int count, LayerSummary summary) in runs)
        {
            TreeNode node = tree.AddNode(new Text(count == 1 ? $"layer {range}" : $"layers {range}"));
            node.AddNode(new Text($"router: {summary.RouterInWords()}"));
            AddExperts(node.AddNode(new Text($"experts: {InWords(summary.Experts)}")), summary.Experts);
            if (summary.Shared is { } shared)
                AddExperts(node.AddNode(new Text($"shared experts: {InWords(shared)}{(summary.IsSharedGated ? ", gated" : "")}")), shared);
        }
        terminal.Write(tree);
        var table = new Table().Border(TableBorder.Simple).AddColumn("layers");
        foreach (string column in (string[])["E", "K", "H", "I"]) table.AddColumn(new TableColumn(column).RightAligned());
        table.AddColumns("weights", "activation");
        foreach (string column in (string[])["tensors", "a layer", "all"]) table.AddColumn(new TableColumn(column).RightAligned());
        foreach ((string range, int count, LayerSummary summary) in runs)
        {
            ExpertsSummary experts = summary.Experts;
            table.AddRow(range, $"{experts.Count}", $"{summary.Router.TopK}", $"{experts.Hidden}", $"{experts.Intermediate}", experts.FormatInWords(),
                Names.Of(experts.Activation), Units.Count(summary.Tensors), Units.Bytes(summary.Bytes), Units.Bytes(count * summary.Bytes));
        }
        terminal.Write(table);
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        json.WriteString("model", model);
        json.WriteString("family", family);
        json.WriteNumber("tensors", Tensors);
        json.WriteNumber("bytes", Bytes);
        json.WriteStartArray("layers");
        foreach ((int layer, LayerSummary summary) in layers) summary.Write(json, layer);
        json.WriteEndArray();
    }

    private static string InWords(ExpertsSummary experts) =>
        $"{experts.Count}, {Names.Of(experts.Activation)}{(experts.HasBiases ? ", biases" : "")}, {Units.Bytes(experts.Bytes)}";

    private static void AddExperts(TreeNode node, ExpertsSummary experts)
    {
        node.AddNode(new Text($"gate, up [{experts.Intermediate}, {experts.Hidden}] {experts.FormatInWords()}"));
        node.AddNode(new Text($"down [{experts.Hidden}, {experts.Intermediate}] {experts.FormatInWords()}"));
    }

    /// <summary>Layers that follow one another and are made alike, as one row.</summary>
    private List<(string Layers, int Count, LayerSummary Summary)> Runs()
    {
        var runs = new List<(string, int, LayerSummary)>();
        for (int first = 0, next; first < layers.Count; first = next)
        {
            for (next = first + 1; next < layers.Count && layers[next].Summary == layers[first].Summary; next++) { }
            int last = layers[next - 1].Layer;
            runs.Add((next - first == 1 ? $"{last}" : $"{layers[first].Layer}-{last}", next - first, layers[first].Summary));
        }
        return runs;
    }
}
