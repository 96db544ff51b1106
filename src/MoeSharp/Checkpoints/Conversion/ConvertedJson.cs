using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace MoeSharp;

/// <summary>JSON files that are read, changed and written; what is not changed keeps its order and its digits.</summary>
internal static class ConvertedJson
{
    public static JsonObject Read(string path)
    {
        try
        {
            return JsonNode.Parse(File.ReadAllBytes(path)) as JsonObject ?? throw new CheckpointException($"{path} is not a JSON object.");
        }
        catch (JsonException e)
        {
            throw new CheckpointException($"{path} cannot be read: {e.Message.TrimEnd('.')}.", e);
        }
    }

    public static void Write(string path, JsonObject json) => WholeFile.Write(path, stream =>
    {
        var options = new JsonWriterOptions { Indented = true, NewLine = "\n", Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
        using (var writer = new Utf8JsonWriter(stream, options)) json.WriteTo(writer);
        stream.WriteByte((byte)'\n');
    });
}
