using System.CommandLine;
using System.Runtime.InteropServices;
using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>Shows what this machine can do and what would run on it.</summary>
internal sealed class InfoVerb : Verb
{
    private const int Rounds = 5;
    private readonly Option<int?> _threads = Inputs.Threads();

    public InfoVerb() : base("info", "Show the processor's features, what it reaches at best, and which kernels are chosen and why.", "moesharp info") => Add(_threads);

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        int threads = arguments.GetValue(_threads) ?? Environment.ProcessorCount;
        KernelChoice[] choices = KernelChoice.All(cancel);
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
        if (terminal.Json) terminal.WriteJson(json => WriteJson(json, threads, ceilings, choices));
        else WriteTables(terminal, threads, ceilings, choices);
        return ExitCode.Ok;
    }

    private static void WriteTables(Terminal terminal, int threads, Ceilings ceilings, KernelChoice[] choices)
    {
        string absent = string.Join(", ", Machine.Features().Where(feature => !feature.Present).Select(feature => feature.Name));
        terminal.WriteFacts(
            ("processor", $"{Machine.ProcessorName()}, {Environment.ProcessorCount} threads, {Machine.VectorBits}-bit vectors"),
            ("features", string.Join(", ", Machine.Features().Where(feature => feature.Present).Select(feature => feature.Name))),
            ("not usable", absent.Length == 0 ? "-" : absent),
            ("memory", $"{Units.Bytes(Machine.AvailableMemory())} available"),
            ("system", $"{RuntimeInformation.OSDescription}, {RuntimeInformation.ProcessArchitecture}, {RuntimeInformation.FrameworkDescription}"),
            ("ceilings", $"{ceilings.InWords()} on {threads} threads"));
        var table = new Table().Border(TableBorder.Simple).AddColumns("weights", "activations", "backend", "kernel and why");
        foreach (KernelChoice choice in choices)
            table.AddRow(new Text(Names.Of(choice.Format)), new Text(Names.Of(choice.Activations)), new Text(choice.Backend), new Text(choice.InWords()));
        terminal.Write(table);
        var kernels = new Table().Border(TableBorder.Simple).AddColumns("cpu kernel, best first", "usable", "why");
        foreach (IGemmKernel kernel in GemmKernels.All)
            kernels.AddRow(new Text(kernel.Name), new Text(kernel.IsSupported ? "yes" : "no"), new Text(kernel.Reason));
        terminal.Write(kernels);
    }

    private static void WriteJson(Utf8JsonWriter json, int threads, Ceilings ceilings, KernelChoice[] choices)
    {
        Machine.Write(json, threads);
        json.WriteStartObject("features");
        foreach ((string name, bool present) in Machine.Features()) json.WriteBoolean(name, present);
        json.WriteEndObject();
        ceilings.WriteJson(json);
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
        foreach (IGemmKernel kernel in GemmKernels.All)
        {
            json.WriteStartObject();
            json.WriteString("name", kernel.Name);
            json.WriteBoolean("usable", kernel.IsSupported);
            json.WriteString("reason", kernel.Reason);
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }
}
