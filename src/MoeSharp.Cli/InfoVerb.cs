using System.CommandLine;
using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>Shows what this machine can do and what would run on it.</summary>
internal sealed class InfoVerb : Verb
{
    private const int Rounds = 5;
    private readonly Option<int?> _threads = Inputs.Threads();

    public InfoVerb() : base("info", "Show the processor's features, what it reaches at best, the GPUs, and which kernels are chosen and why.", "moesharp info") => Add(_threads);

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        int threads = arguments.GetValue(_threads) ?? Environment.ProcessorCount;
        using ExpertWeights probe = SyntheticWeights.Create(new BenchShape("probe", 1, 1, 128, 128), WeightFormat.Block128, cancel);
        ExpertsShape shape = ExpertsShape.From(new() { TopK = 1 }, probe);
        double?[] ready = [.. GemmKernels.All.Select(kernel => MillisecondsUntilReady(kernel, shape))]; // before anything else has made a kernel
        using var gpu = new AutoGpu();
        KernelChoice[] choices = KernelChoice.All(gpu, cancel);
        using var team = new Team(threads);
        using var ceilings = new Ceilings(team);
        terminal.Track("Measuring ceilings", Rounds, step =>
        {
            for (int round = 1; round <= Rounds; round++)
            {
                cancel.ThrowIfCancellationRequested();
                step($"round {round} of {Rounds}", round - 1);
                ceilings.Round();
            }
        });
        if (terminal.Json) terminal.WriteJson(json => WriteJson(json, threads, ceilings, choices, ready));
        else WriteTables(terminal, threads, ceilings, choices, ready);
        return ExitCode.Ok;
    }

    /// <summary>What a process pays once, when its first layer is loaded: a kernel's entries for one format and its row kernels. Null for one that cannot run here.</summary>
    private static double? MillisecondsUntilReady(IGemmKernel kernel, ExpertsShape shape)
    {
        if (!kernel.IsSupported) return null;
        long start = Stopwatch.GetTimestamp();
        kernel.For(shape.Format, withNaN: false);
        kernel.RowsFor(shape, hasBiases: false, downColumns: TileBlock.MaxDepth);
        return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    }

    private static void WriteTables(Terminal terminal, int threads, Ceilings ceilings, KernelChoice[] choices, double?[] ready)
    {
        string absent = string.Join(", ", Machine.Features().Where(feature => !feature.Present).Select(feature => feature.Name));
        terminal.WriteFacts(
            ("processor", $"{Machine.ProcessorName()}, {Environment.ProcessorCount} threads, {Machine.VectorBits}-bit vectors"),
            ("features", string.Join(", ", Machine.Features().Where(feature => feature.Present).Select(feature => feature.Name))),
            ("not usable", absent.Length == 0 ? "-" : absent),
            ("memory", $"{Units.Bytes(Machine.AvailableMemory())} available; {MemoryNodes()}"),
            ("system", $"{RuntimeInformation.OSDescription}, {RuntimeInformation.ProcessArchitecture}, {RuntimeInformation.FrameworkDescription}"),
            ("GPU", GpuMachine.AllInWords()),
            ("ceilings", $"{ceilings.InWords()} on {threads} threads"));
        var table = new Table().Border(TableBorder.Simple).AddColumns("weights", "activations", "backend", "kernel and why");
        foreach (KernelChoice choice in choices)
            table.AddRow(new Text(Names.Of(choice.Format)), new Text(Names.Of(choice.Activations)), new Text(choice.Backend), new Text(choice.InWords()));
        terminal.Write(table);
        var kernels = new Table().Border(TableBorder.Simple).AddColumns("cpu kernel, best first", "usable", "ready after", "why");
        foreach ((IGemmKernel kernel, double? milliseconds) in GemmKernels.All.Zip(ready))
        {
            string after = milliseconds is { } needed ? $"{Units.Number(needed)} ms" : "-";
            kernels.AddRow(new Text(kernel.Name), new Text(kernel.IsSupported ? "yes" : "no"), new Text(after), new Text(kernel.Reason));
        }
        terminal.Write(kernels);
    }

    /// <summary>As the team of threads sees them: a worker stays on the node whose experts it computes.</summary>
    private static string MemoryNodes()
    {
        IReadOnlyList<int[]> nodes = Topology.Machine.Nodes;
        return nodes.Count == 1 ? "one node" : $"{nodes.Count} nodes, of {string.Join(" and ", nodes.Select(node => node.Length))} processors";
    }

    private static void WriteJson(Utf8JsonWriter json, int threads, Ceilings ceilings, KernelChoice[] choices, double?[] ready)
    {
        Machine.Write(json, threads);
        json.WriteStartObject("features");
        foreach ((string name, bool present) in Machine.Features()) json.WriteBoolean(name, present);
        json.WriteEndObject();
        json.WriteStartArray("memory_nodes");
        foreach (int[] processors in Topology.Machine.Nodes) json.WriteNumberValue(processors.Length);
        json.WriteEndArray();
        ceilings.WriteJson(json);
        GpuMachine.WriteAll(json);
        json.WriteStartArray("kernels");
        foreach (KernelChoice choice in choices)
        {
            json.WriteStartObject();
            json.WriteString("format", Names.Of(choice.Format));
            json.WriteString("activations", Names.Of(choice.Activations));
            json.WriteString("backend", choice.Backend);
            json.WriteString("kernel", choice.Kernel);
            json.WriteStartArray("passed_over");
            foreach (string reason in choice.PassedOver) json.WriteStringValue(reason);
            json.WriteEndArray();
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteStartArray("cpu_kernels");
        foreach ((IGemmKernel kernel, double? milliseconds) in GemmKernels.All.Zip(ready))
        {
            json.WriteStartObject();
            json.WriteString("name", kernel.Name);
            json.WriteBoolean("usable", kernel.IsSupported);
            if (milliseconds is { } needed) json.WriteNumber("ready_ms", needed);
            else json.WriteNull("ready_ms");
            json.WriteString("reason", kernel.Reason);
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }
}
