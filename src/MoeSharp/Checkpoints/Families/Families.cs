namespace MoeSharp;

/// <summary>All families.</summary>
internal static partial class Families
{
    public static IReadOnlyList<Family> All =>
        [DeepSeekV3, Qwen3Moe, Qwen3Next, Qwen35Moe, Glm4Moe, MiniMaxM2, MiniMaxM3, Step35, Mixtral, Dots1, Ernie45, GptOss];

    /// <summary>The family of a config.</summary>
    /// <exception cref="CheckpointException">The model_type is unknown, and the message lists those that are known; or its activation is of a kind that the family does not have.</exception>
    public static Family Of(ModelConfig config)
    {
        foreach (string? type in new[] { config.ModelType, config.OuterModelType })
            if (All.FirstOrDefault(f => f.ModelTypes.Contains(type)) is { } family)
            {
                family.RefuseOtherSwiglu(config);
                return family;
            }
        throw new CheckpointException(
            $"{config.Path}: model_type '{config.ModelType}' is not known; known are {string.Join(", ", All.SelectMany(f => f.ModelTypes))}.");
    }
}
