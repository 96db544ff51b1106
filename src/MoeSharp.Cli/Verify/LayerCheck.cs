using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>One expert alone.</summary>
internal sealed record ExpertCheck(int Expert, Accuracy Error, bool Passed);

/// <summary>What comparing one layer with the reference found.</summary>
/// <param name="Layer">Index of the decoder layer.</param>
/// <param name="Shape">Of the backend that was checked.</param>
/// <param name="IdsEqual">Whether the router sent the sampled rows to the same experts alone as in the whole batch.</param>
/// <param name="Whole">Router, routed and shared experts together.</param>
/// <param name="Experts">One per routed expert.</param>
internal sealed record LayerCheck(int Layer, ExpertsShape Shape, bool IdsEqual, Accuracy Whole, IReadOnlyList<ExpertCheck> Experts)
{
    public double Tolerance => Verdict.Tolerance(Shape);

    public bool WholePassed => IdsEqual && Whole.IsWithin(Tolerance);

    public bool Passed => WholePassed && Experts.All(expert => expert.Passed);

    /// <summary>The expert that is furthest off; NaN is further than any number.</summary>
    public ExpertCheck Worst => Experts.MaxBy(expert => double.IsNaN(expert.Error.CalcDiff) ? double.PositiveInfinity : expert.Error.CalcDiff)!;

    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteNumber("layer", Layer);
        json.WriteString("format", Names.Of(Shape.Format));
        json.WriteString("activations", Names.Of(Shape.Activations));
        json.WriteNumber("tolerance", Tolerance);
        json.WriteBoolean("ids_equal", IdsEqual);
        json.WriteStartObject("whole_layer");
        Whole.Write(json, WholePassed);
        json.WriteEndObject();
        json.WriteStartArray("experts");
        foreach (ExpertCheck expert in Experts)
        {
            json.WriteStartObject();
            json.WriteNumber("expert", expert.Expert);
            expert.Error.Write(json, expert.Passed);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteBoolean("passed", Passed);
        json.WriteEndObject();
    }
}
