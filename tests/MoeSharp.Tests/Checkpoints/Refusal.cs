namespace MoeSharp.Tests;

/// <summary>Reads whole checkpoints, and what they are refused with: one sentence.</summary>
internal static class Refusal
{
    /// <summary>Opens a folder and builds every MoE layer.</summary>
    public static void Reads(string folder)
    {
        using Checkpoint model = Checkpoint.Open(folder);
        foreach (int index in model.MoeLayers)
        {
            using LayerParts parts = model.ReadLayer(index);
            using var layer = new MoeLayer(parts, new() { Backend = ExpertsBackends.Reference });
        }
    }

    /// <summary>The sentence, which must hold all the words.</summary>
    public static string Of(string folder, params string[] words) => Of(() => Reads(folder), words);

    public static string Of(Action read, params string[] words)
    {
        string message = Assert.Throws<CheckpointException>(read).Message;
        foreach (string word in words) Assert.Contains(word, message);
        Assert.DoesNotContain(message, char.IsControl);
        Assert.EndsWith(".", message);
        return message;
    }
}
