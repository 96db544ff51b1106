using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>Routing, kernels, memory and time of a call, in tables and as JSON.</summary>
/// <param name="layer">What was called.</param>
/// <param name="timed">How long it took.</param>
/// <param name="threads">Of the machine's description.</param>
/// <param name="chosen">Why auto took a GPU, or why not; null where something was asked for by name.</param>
internal sealed class ExplainReport(ExplainCase layer, TimedCall timed, int threads, string? chosen)
{
    private const int BarWidth = 40;
    private readonly FusedExperts _experts = layer.Experts;
    private readonly IGemmKernel? _kernel = layer.Kernel;
    private readonly GpuTiles? _tiles = layer.Experts.Backend is CudaBackend ? GpuTiles.Of(layer.Experts.Shape, layer.Load) : null;

    public void WriteTables(Terminal terminal)
    {
        terminal.WriteFacts(Facts());
        terminal.WriteLine();
        WriteHistogram(terminal);
        if (_kernel is not null) WriteKernels(terminal);
        WriteWorkspace(terminal);
        WriteTimes(terminal);
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        Machine.Write(json, threads);
        json.WriteString("layer", layer.Name);
        json.WriteNumber("tokens", layer.Tokens);
        WriteRouting(json);
        json.WriteString("backend", _experts.Backend.Name);
        json.WriteString("kernel", _experts.Description);
        json.WriteString("chosen", chosen);
        json.WriteStartArray("passed_over");
        foreach (string reason in PassedOver()) json.WriteStringValue(reason);
        json.WriteEndArray();
        if (_kernel is not null)
        {
            json.WriteStartObject("tile");
            json.WriteNumber("columns", TileBlock.Columns);
            json.WriteNumber("depth", TileBlock.MaxDepth);
            json.WriteNumber("most_rows", MostRows);
            json.WriteNumber("most_item_rows", WorkItem.MaxRows);
            json.WriteNumber("items", Items);
            json.WriteEndObject();
        }
        _tiles?.WriteJson(json);
        if (Gpu is { } gpu)
        {
            json.WriteStartObject("gpu_weights");
            json.WriteNumber("bytes", gpu.Weights);
            json.WriteNumber("padding_bytes", gpu.Padding);
            json.WriteNumber("loading_bytes", gpu.Loading);
            json.WriteEndObject();
        }
        WriteWorkspace(json);
        timed.WriteCeilings(json);
        WriteTimes(json);
    }

    private int MostRows
    {
        get
        {
            TileKernels kernels = _kernel!.For(_experts.Shape.Format, withNaN: false);
            return Math.Max(kernels.MaxRows, kernels.MaxPanelRows);
        }
    }

    private int Items => layer.Load.Rows.Sum(rows => (rows + WorkItem.MaxRows - 1) / WorkItem.MaxRows);

    /// <summary>What the weights take of a GPU; null where there is none in use.</summary>
    private CudaWeightMemory? Gpu => _experts.Backend is CudaBackend ? CudaBackend.WeightMemory(layer.Weights) : null;

    private string[] PassedOver() =>
    [
        .. ExpertsBackends.All.TakeWhile(backend => _tiles is null && backend.Name != _experts.Backend.Name)
            .Select(backend => $"{backend.Name}: {FusedExperts.Supports(backend, _experts.Shape).Reason ?? "another was asked for"}"),
    ];

    private List<(string, string)> Facts()
    {
        ExpertLoad load = layer.Load;
        string dropped = load.Dropped == 0 ? "" : $", {Units.Plural(load.Dropped, "slot")} without a local expert";
        var facts = new List<(string, string)>
        {
            ("layer", $"{layer.Name}: {Names.Of(_experts.Shape)}"),
            ("routing", $"{Units.Plural(layer.Tokens, "token")}: {layer.Routing}"),
            ("rows", $"{Units.Count(load.Total)} over {load.Active} of {load.Rows.Length} experts{dropped}; median {Units.Number(load.Median)}, "
                + $"mean {Units.Number(load.Mean)}, busiest {load.Most} (expert {load.Busiest})"),
            ("backend", string.Join("; ", (string[])[_experts.Backend.Name, .. PassedOver().Select(reason => $"not {reason}")])),
            ("kernel", _experts.Description),
        };
        if (chosen is not null) facts.Insert(facts.Count - 1, ("chosen", chosen));
        if (Gpu is { } gpu)
        {
            string padding = gpu.Padding == 0 ? "" : $", {Units.Bytes(gpu.Padding)} of them zeros that fill blocks of 128";
            facts.Add(("GPU memory", $"{Units.Bytes(gpu.Weights)} of weights{padding}; {Units.Bytes(gpu.Loading)} more while they are loaded"));
        }
        if (_tiles is not null) facts.AddRange(_tiles.Facts());
        if (_kernel is null) return facts;
        facts.Add(("tile", $"{TileBlock.Columns} columns x {TileBlock.MaxDepth} k of weights, 1 to {MostRows} rows at a time: as many sums as registers hold"));
        facts.Add(("work", $"{Units.Plural(Items, "item")} of at most {WorkItem.MaxRows} rows of one expert, split evenly: a block of weights stays in the cache while they pass"));
        return facts;
    }

    /// <summary>Where the call computes: on a GPU the device's.</summary>
    private WorkspacePlan Workspace()
    {
        if (_tiles is null) return _experts.PlanWorkspace(layer.Tokens);
        var plan = new WorkspacePlan();
        new DevicePlan(_experts.Shape, layer.Tokens).AddTo(plan);
        return plan;
    }

    private void WriteHistogram(Terminal terminal)
    {
        var table = new Table().Border(TableBorder.Simple).AddColumn(new TableColumn("rows").RightAligned()).AddColumn(new TableColumn("experts").RightAligned()).AddColumn("");
        int most = layer.Load.Histogram().Max(bin => bin.Experts);
        foreach ((int least, int last, int experts) in layer.Load.Histogram())
            table.AddRow(least == last ? $"{least}" : $"{least} to {last}", $"{experts}", new string('#', (experts * BarWidth + most - 1) / most));
        terminal.Write(table);
    }

    private void WriteKernels(Terminal terminal)
    {
        var table = new Table().Border(TableBorder.Simple).AddColumns("cpu kernel, best first", "", "why");
        foreach (IGemmKernel kernel in GemmKernels.All)
            table.AddRow(new Text(kernel.Name), new Text(kernel == _kernel ? "chosen" : kernel.IsSupported ? "usable" : "no"), new Text(kernel.Reason));
        terminal.Write(table);
    }

    private void WriteWorkspace(Terminal terminal)
    {
        var table = new Table().Border(TableBorder.Simple).AddColumns("workspace", "type");
        foreach (string column in (string[])["shape", "offset", "bytes"]) table.AddColumn(new TableColumn(column).RightAligned());
        table.AddColumn("steps");
        WorkspacePlan plan = Workspace();
        foreach (WorkspaceRow row in plan.Rows)
            if (row.Bytes > 0) table.AddRow(row.Name, $"{row.Type}", $"{row.Dim0} x {row.Dim1}", Units.Count(row.Offset), Units.Count(row.Bytes), row.First == row.Last ? $"{row.First}" : $"{row.First} to {row.Last}");
        terminal.Write(table);
        terminal.WriteLine($"{Units.Count(plan.Bytes)} bytes in one allocation; buffers whose steps do not overlap share them ({Units.Count(BytesUnshared(plan))} apart).");
    }

    private void WriteTimes(Terminal terminal)
    {
        if (timed is not { Costs: { } costs, Total: { } total })
        {
            terminal.WriteLine($"Measured: {Units.Milliseconds(timed.Call)}, {timed.Method}. There is no cost model of backend {_experts.Backend.Name}.");
            return;
        }
        var table = new Table().Border(TableBorder.Simple).AddColumn(new TableColumn("stage").NoWrap());
        foreach (string column in (string[])["bytes", "MFLOP", "ms by bytes", "ms by FLOP", "bound", "predicted", "measured"]) table.AddColumn(new TableColumn(column).RightAligned());
        for (int stage = 0; stage < costs.Length; stage++) AddRow(costs[stage], timed.Stages[stage]);
        AddRow(total, timed.Call);
        terminal.Write(table);
        terminal.WriteLine(timed.Ceilings);
        terminal.WriteLine($"Times in ms. Measured: {timed.Method}; {Units.Number(timed.Call / total.Predicted)} times the prediction.");
        if (_tiles is not null) terminal.WriteLine("Launches by themselves do not overlap, so their sum exceeds the call.");

        void AddRow(StageCost cost, double? measured) => table.AddRow(cost.Stage, Units.Bytes(cost.Bytes), Units.Number(cost.Flops / 1e6), Units.Number(cost.ByBytes),
            Units.Number(cost.ByFlops), cost.Bound, Units.Number(cost.Predicted), measured is { } ms ? Units.Number(ms) : "-");
    }

    private void WriteRouting(Utf8JsonWriter json)
    {
        json.WriteStartObject("routing");
        json.WriteString("source", layer.Routing);
        json.WriteNumber("rows", layer.Load.Total);
        json.WriteNumber("dropped", layer.Load.Dropped);
        json.WriteNumber("active_experts", layer.Load.Active);
        json.WriteNumber("median", layer.Load.Median);
        json.WriteNumber("mean", layer.Load.Mean);
        json.WriteNumber("most", layer.Load.Most);
        json.WriteStartArray("rows_per_expert");
        foreach (int rows in layer.Load.Rows) json.WriteNumberValue(rows);
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private void WriteWorkspace(Utf8JsonWriter json)
    {
        WorkspacePlan plan = Workspace();
        json.WriteStartObject("workspace");
        json.WriteNumber("bytes", plan.Bytes);
        json.WriteStartArray("rows");
        foreach (WorkspaceRow row in plan.Rows)
        {
            json.WriteStartObject();
            json.WriteString("name", row.Name);
            json.WriteString("type", row.Type.ToString());
            json.WriteStartArray("shape");
            json.WriteNumberValue(row.Dim0);
            json.WriteNumberValue(row.Dim1);
            json.WriteEndArray();
            json.WriteNumber("offset", row.Offset);
            json.WriteNumber("bytes", row.Bytes);
            json.WriteString("first_step", row.First.ToString());
            json.WriteString("last_step", row.Last.ToString());
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private void WriteTimes(Utf8JsonWriter json)
    {
        json.WriteNumber("measured_ms", timed.Call);
        if (timed.Total is { } total) json.WriteNumber("predicted_ms", total.Predicted);
        else json.WriteNull("predicted_ms");
        json.WriteStartArray("stages");
        foreach ((StageCost cost, double? measured) in (timed.Costs ?? []).Zip(timed.Stages))
        {
            json.WriteStartObject();
            json.WriteString("stage", cost.Stage);
            json.WriteNumber("bytes", cost.Bytes);
            json.WriteNumber("flops", cost.Flops);
            json.WriteString("bound_by", cost.Bound);
            json.WriteNumber("predicted_ms", cost.Predicted);
            if (measured is { } ms) json.WriteNumber("measured_ms", ms);
            else json.WriteNull("measured_ms");
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }

    private static long BytesUnshared(WorkspacePlan plan)
    {
        long bytes = 0;
        foreach (WorkspaceRow row in plan.Rows) bytes += row.Bytes;
        return bytes;
    }
}
