namespace MoeSharp;

/// <summary>A value that is NaN or infinite, and where it came up.</summary>
/// <param name="Step">The step that wrote it.</param>
/// <param name="What">The buffer: hidden, gate, up, activated, down, output, or the scales of one.</param>
/// <param name="Expert">Local id; -1 where rows do not belong to an expert.</param>
/// <param name="Row">Among the expert's rows, in order of tokens; the token itself where there is no expert.</param>
/// <param name="Token">The token that the row belongs to.</param>
/// <param name="Block">Scale block of the row; blocks of 128 where values have no scales.</param>
/// <param name="Column">-1 when it is the block's scale.</param>
/// <param name="Value">The value.</param>
/// <param name="Cause">The weight or bias behind it, or how it came from finite operands.</param>
internal readonly record struct NonFinite(Step Step, string What, int Expert, int Row, int Token, int Block, int Column, float Value, string Cause);
