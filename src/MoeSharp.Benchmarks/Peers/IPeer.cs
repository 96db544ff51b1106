namespace MoeSharp.Benchmarks;

/// <summary>Another implementation of a layer's routed experts, holding the same weights in a format of its own. T tokens, K top-k, H hidden.</summary>
internal interface IPeer : IDisposable
{
    /// <summary>Name and version.</summary>
    string Name { get; }

    /// <summary>How it holds weights, in a few words.</summary>
    string Format { get; }

    /// <summary>Bytes of one expert's weights and scales.</summary>
    long ExpertBytes { get; }

    /// <summary>[T, H] of the latest call.</summary>
    ReadOnlySpan<float> Output { get; }

    /// <summary>Takes the inputs of the next calls into memory of its own; not timed.</summary>
    /// <param name="hidden">[T, H].</param>
    /// <param name="ids">[T, K].</param>
    /// <param name="weights">[T, K]; each token's sum is 1.</param>
    void Set(ReadOnlySpan<BFloat16> hidden, ReadOnlySpan<int> ids, ReadOnlySpan<float> weights);

    /// <summary>Computes the layer; timed.</summary>
    void Run();
}
