using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>What an audit found, in paragraphs by kind or as JSON.</summary>
internal sealed class DoctorReport(string model, Doctor doctor)
{
    private const int MostShownPerCode = 8;
    private readonly IReadOnlyList<Finding> _findings = doctor.Findings;

    public int Errors => _findings.Count(f => f.Code.Severity == Severity.Error);

    public void Write(Terminal terminal)
    {
        terminal.WriteLine($"{model}: {Units.Plural(doctor.Layers, "MoE layer")}, {Units.Bytes(doctor.Bytes)} of weights");
        foreach (IGrouping<FindingCode, Finding> kind in _findings.GroupBy(f => f.Code))
        {
            terminal.WriteLine();
            terminal.WriteLine($"{NameOf(kind.Key.Severity)} {kind.Key.Name}: {Units.Plural(kind.Count(), "finding")}");
            terminal.WriteLine($"  why: {kind.Key.Why}");
            terminal.WriteLine($"  do:  {kind.Key.Remedy}");
            foreach (Finding finding in kind.Take(MostShownPerCode)) terminal.WriteLine($"  - {Where(finding.At)}{finding.What}");
            if (kind.Count() > MostShownPerCode) terminal.WriteLine($"  - {kind.Count() - MostShownPerCode} more; --json lists them all");
        }
        if (_findings.Count > 0) terminal.WriteLine();
        terminal.WriteLine(
            _findings.Count == 0 ? "Nothing found." : $"{Units.Plural(Errors, "error")}, {Units.Plural(_findings.Count - Errors, "warning")}.");
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        json.WriteStartArray("findings");
        foreach (Finding finding in _findings) WriteFinding(json, finding);
        json.WriteEndArray();
    }

    private static void WriteFinding(Utf8JsonWriter json, Finding finding)
    {
        json.WriteStartObject();
        json.WriteString("code", finding.Code.Name);
        json.WriteString("severity", NameOf(finding.Code.Severity));
        json.WriteString("file", finding.At.File);
        json.WriteString("tensor", finding.At.Tensor);
        WriteNumber(json, "layer", finding.At.Layer);
        WriteNumber(json, "expert", finding.At.Expert);
        if (finding.At.Block is (int row, int column))
        {
            json.WriteStartArray("block");
            json.WriteNumberValue(row);
            json.WriteNumberValue(column);
            json.WriteEndArray();
        }
        else
        {
            json.WriteNull("block");
        }
        json.WriteString("message", finding.Message);
        json.WriteEndObject();
    }

    private static void WriteNumber(Utf8JsonWriter json, string name, int? value)
    {
        if (value is { } number) json.WriteNumber(name, number);
        else json.WriteNull(name);
    }

    private static string NameOf(Severity severity) => severity == Severity.Error ? "error" : "warning";

    private static string Where(Place at)
    {
        string? layer = at.Layer is { } l ? $"layer {l}" : null, expert = at.Expert is { } e ? $"expert {e}" : null;
        string[] parts = [.. new[] { at.File, layer, expert }.OfType<string>()];
        return parts.Length == 0 ? "" : $"{string.Join(", ", parts)}: ";
    }
}
