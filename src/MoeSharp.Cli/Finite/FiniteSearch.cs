using System.Globalization;
using System.Text.Json;

namespace MoeSharp.Cli;

/// <summary>The first value of a layer that is NaN or infinite.</summary>
/// <param name="Layer">Decoder layer.</param>
/// <param name="Part">router, routed experts, shared experts, or the layer's output.</param>
/// <param name="At">Where in that part.</param>
internal sealed record FiniteFinding(int Layer, string Part, NonFinite At)
{
    public string InWords()
    {
        string block = At.Block < 0 ? "" : $", block {At.Block}", column = At.Column < 0 ? "" : $", column {At.Column}";
        string expert = At.Expert < 0 ? $"token {At.Token}" : $"expert {At.Expert}, row {At.Row} (token {At.Token})";
        return $"{Value} in {At.What} after {At.Step}: layer {Layer}, {Part}, {expert}{block}{column}; {At.Cause}";
    }

    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("step", At.Step.ToString());
        json.WriteNumber("layer", Layer);
        json.WriteString("part", Part);
        json.WriteString("buffer", At.What);
        WriteIndex(json, "expert", At.Expert);
        json.WriteNumber("row", At.Row);
        json.WriteNumber("token", At.Token);
        WriteIndex(json, "block", At.Block);
        WriteIndex(json, "column", At.Column);
        json.WriteString("value", Value);
        json.WriteString("cause", At.Cause);
        json.WriteEndObject();
    }

    /// <summary>The member "non_finite" of reports; null where everything is finite.</summary>
    public static void Write(Utf8JsonWriter json, string name, FiniteFinding? found)
    {
        json.WritePropertyName(name);
        if (found is null) json.WriteNullValue();
        else found.Write(json);
    }

    private string Value => At.Value.ToString(CultureInfo.InvariantCulture);

    private static void WriteIndex(Utf8JsonWriter json, string name, int index)
    {
        if (index < 0) json.WriteNull(name);
        else json.WriteNumber(name, index);
    }
}

/// <summary>
/// Runs a layer step by step on the reference and looks at every value that a step writes. Slow, but it says where the first NaN or infinity comes from,
/// where the output only says that there was one.
/// </summary>
internal sealed class FiniteSearch
{
    private readonly FiniteCheck _check = new();
    private readonly ReferenceBackend _backend;

    public FiniteSearch() => _backend = new(_check);

    /// <summary>What the layer must be built with: the reference, watched, and weights that may be NaN.</summary>
    public MoeLayerOptions Options(MoeLayerOptions options) => options with { Backend = _backend, AllowNaNWeights = true };

    /// <summary>Looks; null where every value is finite.</summary>
    /// <param name="layer">Built with <see cref="Options"/>.</param>
    /// <param name="hidden">[T, H].</param>
    /// <param name="ids">[T, K].</param>
    /// <param name="weights">[T, K].</param>
    /// <param name="expertsOnly">Leaves out shared experts.</param>
    public FiniteFinding? Run(MoeLayer layer, BFloat16[] hidden, int[] ids, float[] weights, bool expertsOnly)
    {
        int width = layer.HiddenSize, topK = layer.Router.TopK, tokens = hidden.Length / width;
        int at = Array.FindIndex(hidden, value => !float.IsFinite(value.ToSingle()));
        if (at >= 0) return Routed("hidden_states", at, width, 128, hidden[at].ToSingle(), "the input is not finite");
        at = Array.FindIndex(weights, value => !float.IsFinite(value));
        if (at >= 0) return Routed("topk_weights", at, topK, 0, weights[at], $"the weight of expert {ids[at]} is not finite");

        var output = new float[hidden.Length];
        layer.Experts.Forward(new ExpertsInput { Hidden = hidden, TopkIds = ids, TopkWeights = weights }, output);
        if (_check.First is { } routed) return new(layer.Layer, "routed experts", routed);
        if (layer.SharedExperts is null || expertsOnly) return null;
        layer.SharedExperts.Forward(hidden, new int[tokens], [.. Enumerable.Repeat(1f, tokens)], new BFloat16[hidden.Length]);
        if (_check.First is { } shared) return new(layer.Layer, "shared experts", shared with { Expert = -1 });
        layer.Forward(hidden, ids, weights, output);
        return OfOutput(layer, output, "the routed and the shared experts are finite but their sum is not");

        FiniteFinding Routed(string what, int index, int columns, int block, float value, string cause) =>
            new(layer.Layer, "router", new(Step.Route, what, -1, index / columns, index / columns, block == 0 ? -1 : index % columns / block, index % columns, value, cause));
    }

    /// <summary>The first value of an output [T, H]; null where all are finite.</summary>
    public static FiniteFinding? OfOutput(MoeLayer layer, ReadOnlySpan<float> output, string cause)
    {
        for (int i = 0; i < output.Length; i++)
            if (!float.IsFinite(output[i]))
            {
                int token = i / layer.HiddenSize, column = i % layer.HiddenSize;
                return new(layer.Layer, "output", new(Step.Combine, "output", -1, token, token, column / 128, column, output[i], cause));
            }
        return null;
    }
}
