using Microsoft.Extensions.Logging;

namespace MoeSharp;

/// <summary>Every event that the library logs; docs/telemetry.md lists them.</summary>
internal static partial class Log
{
    [LoggerMessage(1, LogLevel.Information, "{Path}: {Family}, {MoeLayers} of {Layers} layers have experts, quantized as {Format}.")]
    public static partial void CheckpointOpened(ILogger logger, string path, string family, int moeLayers, int layers, WeightFormat? format);

    [LoggerMessage(2, LogLevel.Warning, "{Oddity}")]
    public static partial void CheckpointIsOdd(ILogger logger, string oddity);

    [LoggerMessage(3, LogLevel.Debug, "Backend {Backend} was passed over: {Reason}")]
    public static partial void BackendPassedOver(ILogger logger, string backend, string? reason);

    [LoggerMessage(4, LogLevel.Information,
        "Backend {Backend} computes {Experts} experts (H {Hidden}, I {Intermediate}, top-{TopK}), weights {Format}, activations {Activations}: {Kernels}.")]
    public static partial void BackendChosen(
        ILogger logger, string backend, int experts, int hidden, int intermediate, int topK, WeightFormat format, ActivationFormat activations, string kernels);

    [LoggerMessage(5, LogLevel.Warning, "The reference backend computes one value at a time, to check others by; name another backend, or none, for speed.")]
    public static partial void ReferenceIsSlow(ILogger logger);

    [LoggerMessage(6, LogLevel.Warning, "{Tensor} (expert {Expert}) holds a NaN code at row {Row}, column {Column}, and AllowNaNWeights is set: what it touches becomes NaN.")]
    public static partial void NaNWeightAccepted(ILogger logger, string tensor, int expert, int row, int column);

    [LoggerMessage(7, LogLevel.Information, "Layer {Layer} loaded in {Seconds:F3} s: {Bytes} bytes of weights.")]
    public static partial void LayerLoaded(ILogger logger, int layer, double seconds, long bytes);

    [LoggerMessage(8, LogLevel.Debug, "A call of {Tokens} tokens runs in chunks of {Chunk}: the workspace may have {Bytes} bytes.")]
    public static partial void CallRunsInChunks(ILogger logger, int tokens, int chunk, long bytes);

    [LoggerMessage(9, LogLevel.Warning,
        "This program was compiled ahead of time for processors without AVX2 and FMA, which makes small layers two to nine times slower even on '{Kernels}'; publish with IlcInstructionSet x86-64-v3, x86-64-v4 or native.")]
    public static partial void CompiledWithoutVectors(ILogger logger, string kernels);
}
