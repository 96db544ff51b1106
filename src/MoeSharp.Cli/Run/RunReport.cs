using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>What a run did, in words and as JSON.</summary>
internal sealed record RunReport
{
    public required string Model { get; init; }
    public required MoeLayer Layer { get; init; }

    /// <summary>Why auto took what it took; null where something was asked for by name.</summary>
    public required string? Chosen { get; init; }

    public required RunInput Input { get; init; }
    public required LayerRun Run { get; init; }
    public required LayerWork Work { get; init; }
    public required bool ExpertsOnly { get; init; }

    /// <summary>Where the output went; null when it was not kept.</summary>
    public required string? Output { get; init; }

    /// <summary>How far from the reference; null when not asked for.</summary>
    public required Accuracy? Error { get; init; }

    /// <summary>Whether the reference's router picked the same experts.</summary>
    public required bool IdsEqual { get; init; }

    /// <summary>Whether values were looked at.</summary>
    public required bool IsChecked { get; init; }

    /// <summary>How it was loaded.</summary>
    public required LoadedLayer Loaded { get; init; }

    /// <summary>The first one that is not finite.</summary>
    public required FiniteFinding? NonFinite { get; init; }

    /// <summary>Where the picture went; null without.</summary>
    public required string? Plot { get; init; }

    public bool Passed => NonFinite is null && (Error is not { } error || Agrees(error));

    private bool Agrees(Accuracy error) => IdsEqual && error.IsWithin(Tolerance);

    private double Tolerance => Verdict.Tolerance(Layer.Experts.Shape);

    private double GigabytesPerSecond => Work.Bytes / Run.MedianMilliseconds / 1e6;

    private double GigaflopPerSecond => Work.Flops / Run.MedianMilliseconds / 1e6;

    private string OutputType => Run.IsF32 ? "f32" : "bf16";

    public void WriteFacts(Terminal terminal)
    {
        var facts = new List<(string, string)>
        {
            ("layer", $"{Layer.Layer} of {Model}: {Names.Of(Layer.Experts.Shape)}"),
            ("ran", RanInWords()),
            ("backend", $"{Layer.Experts.Backend.Name}: {Layer.Experts.Description}"),
            ("input", $"{Units.Plural(Run.Tokens, "token")}, {Input.Source}"),
            ("loaded", $"{Units.Bytes(Loaded.Bytes)} in {Units.Milliseconds(Loaded.Time.TotalMilliseconds)}"),
            ("time", $"{Units.Milliseconds(Run.MedianMilliseconds)}, median of {Run.Repetitions}"),
            ("rates", $"{Units.Number(GigabytesPerSecond)} GB/s ({Units.Bytes(Work.Bytes)}), {Units.Number(GigaflopPerSecond)} GFLOP/s"),
        };
        if (Chosen is not null) facts.Insert(3, ("chosen", Chosen));
        if (Output is not null) facts.Add(("output", $"{Output}: output [{Run.Tokens}, {Layer.HiddenSize}] {OutputType}, topk_ids and topk_weights [{Run.Tokens}, {Layer.Router.TopK}]"));
        if (Plot is not null) facts.Add(("picture", $"{Plot}: rows per expert"));
        if (IsChecked) facts.Add(("finite", NonFinite?.InWords() ?? "yes, every value of every step"));
        if (Error is { } error) facts.Add(("reference", VerdictInWords(error)));
        terminal.WriteFacts(facts);
    }

    public void WriteJson(Utf8JsonWriter json)
    {
        ExpertsShape shape = Layer.Experts.Shape;
        json.WriteString("model", Model);
        json.WriteNumber("layer", Layer.Layer);
        json.WriteNumber("tokens", Run.Tokens);
        json.WriteString("format", Names.Of(shape.Format));
        json.WriteString("activations", Names.Of(shape.Activations));
        json.WriteString("backend", Layer.Experts.Backend.Name);
        json.WriteString("kernel", Layer.Experts.Description);
        json.WriteString("chosen", Chosen);
        json.WriteBoolean("experts_only", ExpertsOnly);
        json.WriteString("output", Output);
        json.WriteString("output_dtype", OutputType);
        json.WriteNumber("load_ms", Loaded.Time.TotalMilliseconds);
        json.WriteNumber("load_bytes", Loaded.Bytes);
        json.WriteNumber("median_ms", Run.MedianMilliseconds);
        json.WriteNumber("bytes", Work.Bytes);
        json.WriteNumber("flops", Work.Flops);
        json.WriteNumber("gb_per_s", GigabytesPerSecond);
        json.WriteNumber("gflop_per_s", GigaflopPerSecond);
        if (IsChecked) FiniteFinding.Write(json, "non_finite", NonFinite);
        if (Error is not { } error)
        {
            json.WriteNull("verification");
            return;
        }
        json.WriteStartObject("verification");
        json.WriteNumber("tolerance", Tolerance);
        json.WriteBoolean("ids_equal", IdsEqual);
        error.Write(json, Agrees(error));
        json.WriteEndObject();
    }

    private string RanInWords()
    {
        string routing = Input.Ids is null ? "router" : "ids and weights from the input";
        string shared = Layer.SharedExperts is null ? "" : ExpertsOnly ? ", no shared experts" : ", shared experts";
        return $"{routing}, routed experts{shared}";
    }

    private string VerdictInWords(Accuracy error) =>
        $"{(Agrees(error) ? "ok" : "FAILED")}: max error {Units.Error(error.MaxAbsolute)}, relative {Units.Error(error.RelativeL2)}, "
        + $"calc_diff {Units.Error(error.CalcDiff)} (tolerance {Units.Error(Tolerance)}){(IdsEqual ? "" : ", topk_ids differ")}";
}
