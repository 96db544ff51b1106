using System.Text.Json;
using Spectre.Console;

namespace MoeSharp.Cli;

/// <summary>What a comparison found, as tables and as JSON.</summary>
internal sealed record CompareReport
{
    public required OpenedSide A { get; init; }
    public required OpenedSide B { get; init; }
    public required RunInput Input { get; init; }
    public required Comparison Result { get; init; }

    /// <summary>How many experts and rows the tables show, worst first.</summary>
    public required int Worst { get; init; }

    /// <summary>Largest relative error that passes; null passes all.</summary>
    public required double? Tolerance { get; init; }

    public required bool IsChecked { get; init; }
    public required FiniteFinding? NonFiniteInA { get; init; }
    public required FiniteFinding? NonFiniteInB { get; init; }

    public bool Passed => NonFiniteInA is null && NonFiniteInB is null && Result.Experts.All(expert => IsWithin(expert.Error)) && IsWithin(Result.Whole);

    public void WriteTables(Terminal terminal)
    {
        terminal.WriteFacts(Facts());
        var table = new Table().Border(TableBorder.Simple).AddColumn("part");
        foreach (string column in (string[])["rows", "relative L2", "SNR dB", "max abs", "calc_diff"]) table.AddColumn(new TableColumn(column).RightAligned());
        int tokens = Input.Hidden.Length / A.Layer.HiddenSize;
        AddRow(table, "whole layer", $"{tokens}", Result.Whole);
        ExpertDifference[] different = [.. Result.Experts.Where(expert => Badness(expert.Error) > 0).OrderByDescending(expert => Badness(expert.Error))];
        foreach (ExpertDifference expert in different.Take(Worst))
            AddRow(table, NameOf(expert.Expert), expert.IsRouted ? $"{expert.Rows}" : "not routed", expert.Error);
        terminal.Write(table);
        int others = Result.Experts.Count - Math.Min(Worst, different.Length);
        if (different.Length == 0) terminal.WriteLine("Every expert gives the same bits on both sides.");
        else if (others > 0) terminal.WriteLine($"{others} more experts are closer; --json lists them all, --worst shows more.");
        if (different.Length > 0) WriteRows(terminal);
        if (Tolerance is { } most) terminal.WriteLine($"{(Passed ? "Within" : "NOT within")} the tolerance of {Units.Error(most)}.");
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        WriteSide(json, "a", A);
        WriteSide(json, "b", B);
        json.WriteNumber("layer", A.Layer.Layer);
        json.WriteNumber("tokens", Input.Hidden.Length / A.Layer.HiddenSize);
        json.WriteNumber("different_ids", Result.DifferentIds);
        json.WriteStartObject("whole_layer");
        Write(json, Result.Whole);
        json.WriteEndObject();
        json.WriteStartArray("experts");
        foreach (ExpertDifference expert in Result.Experts)
        {
            json.WriteStartObject();
            WriteExpert(json, expert.Expert);
            json.WriteNumber("rows", expert.Rows);
            json.WriteBoolean("routed", expert.IsRouted);
            Write(json, expert.Error);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteStartArray("worst_rows");
        foreach (RowDifference row in Result.Rows.Take(Worst))
        {
            json.WriteStartObject();
            WriteExpert(json, row.Expert);
            json.WriteNumber("token", row.Token);
            json.WriteNumber("column", row.Column);
            Verdict.WriteFigure(json, "relative_error", row.Relative);
            Verdict.WriteFigure(json, "a", row.A);
            Verdict.WriteFigure(json, "b", row.B);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        if (IsChecked)
        {
            FiniteFinding.Write(json, "non_finite_a", NonFiniteInA);
            FiniteFinding.Write(json, "non_finite_b", NonFiniteInB);
        }
        json.WriteBoolean("passed", Passed);
    }

    private List<(string, string)> Facts()
    {
        var facts = new List<(string, string)>
        {
            ("a", A.InWords()),
            ("b", $"{B.InWords()}; errors are measured against it"),
            ("layer", $"{A.Layer.Layer}, {Units.Plural(Input.Hidden.Length / A.Layer.HiddenSize, "token")}, {Input.Source}"),
            ("routing", Input.Ids is not null ? "from the input" : Result.DifferentIds == 0 ? "the same on both sides" : $"a's for both; b's differs in {Result.DifferentIds} of {Result.Ids.Length} slots"),
        };
        if ((A.Chosen ?? B.Chosen) is { } chosen) facts.Add(("chosen", chosen));
        if (!IsChecked) return facts;
        facts.Add(("finite in a", NonFiniteInA?.InWords() ?? "yes, every value of every step"));
        facts.Add(("finite in b", NonFiniteInB?.InWords() ?? "yes, every value of every step"));
        return facts;
    }

    private void WriteRows(Terminal terminal)
    {
        var table = new Table().Border(TableBorder.Simple).AddColumn("worst rows");
        foreach (string column in (string[])["token", "relative L2", "worst column", "a there", "b there"]) table.AddColumn(new TableColumn(column).RightAligned());
        foreach (RowDifference row in Result.Rows.Where(row => row.Relative != 0).Take(Worst))
            table.AddRow(NameOf(row.Expert), $"{row.Token}", Units.Error(row.Relative), $"{row.Column}", Value(row.A), Value(row.B));
        terminal.Write(table);
    }

    private bool IsWithin(Accuracy error) => Tolerance is not { } most || error.RelativeL2 <= most;

    /// <summary>NaN is worse than any number.</summary>
    private static double Badness(Accuracy error) => double.IsNaN(error.RelativeL2) ? double.PositiveInfinity : error.RelativeL2;

    private static string NameOf(int expert) => expert < 0 ? "shared experts" : $"expert {expert}";

    private static string Value(float value) => FormattableString.Invariant($"{value:G6}");

    private static double Decibels(Accuracy error) => -20 * Math.Log10(error.RelativeL2);

    private static void AddRow(Table table, string part, string rows, Accuracy error) => table.AddRow(
        part, rows, Units.Error(error.RelativeL2), error.RelativeL2 == 0 ? "exact" : Units.Number(Decibels(error)), Units.Error(error.MaxAbsolute), Units.Error(error.CalcDiff));

    private static void WriteExpert(Utf8JsonWriter json, int expert)
    {
        if (expert < 0) json.WriteString("expert", "shared");
        else json.WriteNumber("expert", expert);
    }

    private static void Write(Utf8JsonWriter json, Accuracy error)
    {
        Verdict.WriteFigure(json, "relative_error", error.RelativeL2);
        Verdict.WriteFigure(json, "snr_db", Decibels(error));
        Verdict.WriteFigure(json, "max_error", error.MaxAbsolute);
        Verdict.WriteFigure(json, "calc_diff", error.CalcDiff);
    }

    private static void WriteSide(Utf8JsonWriter json, string name, OpenedSide side)
    {
        ExpertsShape shape = side.Layer.Experts.Shape;
        json.WriteStartObject(name);
        json.WriteString("model", side.Model);
        json.WriteString("stored", Names.Of(side.Stored));
        json.WriteString("format", Names.Of(shape.Format));
        json.WriteString("activations", Names.Of(shape.Activations));
        json.WriteString("backend", side.Layer.Experts.Backend.Name);
        json.WriteString("kernel", side.Layer.Experts.Description);
        json.WriteString("chosen", side.Chosen);
        json.WriteEndObject();
    }
}
