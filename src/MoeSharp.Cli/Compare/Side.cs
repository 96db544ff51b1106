namespace MoeSharp.Cli;

/// <summary>One side of a comparison, as typed: FORMAT[/BACKEND[/ACTIVATIONS]].</summary>
/// <param name="Format">What the weights are converted to; null leaves them as the checkpoint stores them.</param>
/// <param name="Backend">auto, or a backend's name.</param>
/// <param name="Kernel">Of the cpu backend, when it was typed as cpu:KERNEL.</param>
/// <param name="Activations">Null: what suits the weights.</param>
internal sealed record Side(WeightFormat? Format, string Backend, string? Kernel, ActivationFormat? Activations)
{
    public const string HelpName = "FORMAT[/BACKEND[/ACTIVATIONS]]";
    private const string Auto = "auto", Cpu = "cpu";
    private const string Formats = "stored, block128, block128-pow2, mxfp8, bf16";

    /// <summary>Whether options of the cpu backend mean this side.</summary>
    public bool MayUseCpu => Backend is Auto or Cpu;

    /// <exception cref="ArgumentException">A part is unknown; the message names the option and what it takes.</exception>
    public static Side Parse(string option, string text)
    {
        string[] parts = text.Split('/');
        if (parts.Length > 3) throw new ArgumentException($"{option} is '{text}'; it must be {HelpName}.");
        string backend = parts.Length > 1 ? parts[1] : Auto, activations = parts.Length > 2 ? parts[2] : "";
        string? kernel = backend.StartsWith(Cpu + ":", StringComparison.Ordinal) ? backend[(Cpu.Length + 1)..] : null;
        if (kernel is not null) backend = Cpu;
        if (!ChosenBackend.IsName(backend)) throw new ArgumentException($"{option} is '{text}' but there is no backend '{backend}'; use {ChosenBackend.Names}.");
        if (activations is not ("" or "fp8" or "bf16")) throw new ArgumentException($"{option} is '{text}' but there are no activations '{activations}'; use fp8 or bf16.");
        WeightFormat? format = parts[0] switch
        {
            "stored" or "as-is" => null,
            "block128" => WeightFormat.Block128,
            "block128-pow2" => WeightFormat.Block128PowerOfTwo,
            "mxfp8" => WeightFormat.MxFp8,
            "bf16" => WeightFormat.Bf16,
            _ => throw new ArgumentException($"{option} is '{text}' but there is no format '{parts[0]}'; use {Formats}."),
        };
        return new(format, backend, kernel, Inputs.ActivationFormat(activations));
    }
}
