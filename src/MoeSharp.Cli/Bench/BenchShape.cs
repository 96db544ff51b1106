namespace MoeSharp.Cli;

/// <summary>Sizes of a layer to be timed with random weights.</summary>
/// <param name="Name">As typed.</param>
/// <param name="Experts">E, of the whole model.</param>
/// <param name="TopK">K.</param>
/// <param name="Hidden">H.</param>
/// <param name="Intermediate">I.</param>
internal sealed record BenchShape(string Name, int Experts, int TopK, int Hidden, int Intermediate)
{
    /// <summary>Experts held here: the first ones; ids of the others go to -1 through an expert map.</summary>
    public int LocalExperts { get; init; } = Experts;

    /// <summary>Between the two GEMMs.</summary>
    public Activation Activation { get; init; } = Activation.Silu();

    /// <summary>Published models, by name.</summary>
    public static IReadOnlyList<BenchShape> Named { get; } =
    [
        new("qwen3-30b-a3b", 128, 8, 2048, 768),
        new("qwen3-235b-a22b", 128, 8, 4096, 1536),
        new("qwen3-coder-480b-a35b", 160, 8, 6144, 2560),
        new("qwen3-next", 512, 10, 2048, 512),
        new("qwen3.5-35b-a3b", 256, 8, 2048, 512),
        new("qwen3.5-122b-a10b", 256, 8, 3072, 1024),
        new("qwen3.5-397b-a17b", 512, 10, 4096, 1024),
        new("deepseek-v3", 256, 8, 7168, 2048),
        new("deepseek-v3-ep8", 256, 8, 7168, 2048) { LocalExperts = 32 },
        new("deepseek-v3-slice", 16, 8, 7168, 2048), // small enough for any machine, and for peers that know no expert map
        new("kimi-k2", 384, 8, 7168, 2048),
        new("glm-4.5", 160, 8, 5120, 1536),
        new("glm-5", 256, 8, 6144, 2048),
        new("minimax-m2", 256, 8, 3072, 1536),
        new("minimax-m3", 128, 4, 6144, 3072) { Activation = Activation.SwigluOai() },
        new("step-3.5-flash", 288, 8, 4096, 1280),
        new("mimo-v2-flash", 256, 8, 4096, 2048),
        new("mixtral-8x7b", 8, 2, 4096, 14336),
        new("dots1", 128, 6, 4096, 1408),
        new("ernie-4.5-21b-a3b", 64, 6, 2560, 1536),
        new("gpt-oss-20b", 32, 4, 2880, 2880) { Activation = Activation.SwigluOai() },
        new("gpt-oss-120b", 128, 4, 2880, 2880) { Activation = Activation.SwigluOai() },
    ];

    /// <summary>A name of <see cref="Named"/>, or four numbers E,K,H,I.</summary>
    /// <exception cref="ArgumentException">It is neither.</exception>
    public static BenchShape Parse(string text)
    {
        if (Named.FirstOrDefault(shape => shape.Name == text) is { } named) return named;
        string[] parts = text.Split(',');
        if (parts.Length != 4 || parts.Any(part => !int.TryParse(part, out int size) || size < 1))
            throw new ArgumentException($"--shape is '{text}'; it must be four positive numbers E,K,H,I or one of {string.Join(", ", Named.Select(shape => shape.Name))}.");
        int[] sizes = [.. parts.Select(int.Parse)];
        if (sizes[1] > sizes[0]) throw new ArgumentException($"--shape is '{text}': top-k {sizes[1]} is above the number of experts {sizes[0]}.");
        return new(text, sizes[0], sizes[1], sizes[2], sizes[3]);
    }

    /// <summary>[E]: local id or -1; empty when all experts are local.</summary>
    public int[] ExpertMap() => LocalExperts == Experts ? [] : [.. Enumerable.Range(0, Experts).Select(g => g < LocalExperts ? g : -1)];
}
