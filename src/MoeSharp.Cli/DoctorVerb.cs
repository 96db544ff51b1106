using System.CommandLine;

namespace MoeSharp.Cli;

/// <summary>Audits a checkpoint without running it.</summary>
internal sealed class DoctorVerb : Verb
{
    private const int Steps = 1000;
    private readonly Argument<string> _model = Inputs.Model();

    public DoctorVerb() : base(
        "doctor",
        "Audit every MoE layer without running it: names, types, shapes, scales, values, ignore lists, index and shards. " +
        "Exit code 1 when there is an error.",
        "moesharp doctor samples/tiny-qwen3-moe-fp8",
        "moesharp doctor samples/tiny-qwen3-moe-fp8 --json") => Add(_model);

    protected override int Run(ParseResult arguments, Terminal terminal, CancellationToken cancel)
    {
        string path = arguments.GetValue(_model)!;
        using var doctor = new Doctor(path);
        terminal.Track("Auditing", Steps, step =>
        {
            string all = Units.Bytes(doctor.Bytes);
            doctor.Scan((slab, done) => step($"layer {slab.Layer}, {Units.Bytes(done)} of {all}", Steps * (double)done / doctor.Bytes), cancel);
        });
        var report = new DoctorReport(path, doctor);
        if (terminal.Json) terminal.WriteJson(report.WriteJson);
        else report.Write(terminal);
        return report.Errors == 0 ? ExitCode.Ok : ExitCode.CheckFailed;
    }
}
