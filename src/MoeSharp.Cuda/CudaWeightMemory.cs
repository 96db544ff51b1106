namespace MoeSharp;

/// <summary>Bytes of a GPU's memory that the weights of a layer's experts take; exact.</summary>
/// <param name="Weights">From loading to disposal.</param>
/// <param name="Padding">Of these: zeros that fill sizes up to multiples of 128, and those of packed w13 whose scale blocks straddle gate and up; 0 where H and I are such multiples.</param>
/// <param name="Loading">Beside these, and only while loading: staging, which is also pinned on the host.</param>
public readonly record struct CudaWeightMemory(long Weights, long Padding, long Loading);
