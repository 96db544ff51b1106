using System.Runtime.InteropServices;

namespace MoeSharp.Cli;

/// <summary>The tensors that a run reads and writes.</summary>
internal static class RunFiles
{
    /// <summary>hidden_states [T, H] in BF16, F16 or F32; topk_ids [T, K] in I32 or I64 with topk_weights [T, K] in F32, or neither.</summary>
    /// <exception cref="CheckpointException">A tensor is missing or does not fit the layer.</exception>
    public static RunInput ReadInput(string path, MoeLayer layer)
    {
        using SafetensorsFile file = SafetensorsFile.Open(path);
        TensorEntry hidden = Find(file, "hidden_states")
            ?? throw new CheckpointException($"{path} has no tensor hidden_states; it must be [T, {layer.HiddenSize}] in BF16, F16 or F32.");
        if (hidden.Shape.Length != 2 || hidden.Shape[1] != layer.HiddenSize)
            throw new CheckpointException(
                $"hidden_states in {path} is {hidden.ShapeText} but layer {layer.Layer} has hidden size {layer.HiddenSize}; " +
                $"it must be [T, {layer.HiddenSize}].");
        if (hidden.Bytes > int.MaxValue)
            throw new CheckpointException($"hidden_states in {path} is {hidden.ShapeText}, more than one call takes; use fewer tokens.");
        TensorEntry? ids = Find(file, "topk_ids"), weights = Find(file, "topk_weights");
        if (ids is null != weights is null)
            throw new CheckpointException(
                $"{path} has {(ids is null ? "topk_weights but no topk_ids" : "topk_ids but no topk_weights")}; give both to bypass the router, " +
                    "or neither.");
        BFloat16[] states = HiddenStates(file, hidden);
        if (ids is null || weights is null) return new(path, states);
        CheckRouting(ids, hidden, layer, path);
        CheckRouting(weights, hidden, layer, path);
        return new(path, states, Ids(file, ids), Weights(file, weights));
    }

    /// <summary>output [T, H] in BF16 or F32, topk_ids [T, K] in I32, topk_weights [T, K] in F32; first into a temporary file, which then takes the
    /// name.</summary>
    public static void WriteOutput(string path, LayerRun run)
    {
        long tokens = run.Tokens, hidden = run.Layer.HiddenSize, topK = run.Layer.Router.TopK;
        SafetensorsWriter.Write(path,
        [
            run.IsF32 ? Tensor("output", "F32", [tokens, hidden], run.OutputF32) : Tensor("output", "BF16", [tokens, hidden], run.Output),
            Tensor("topk_ids", "I32", [tokens, topK], run.Ids),
            Tensor("topk_weights", "F32", [tokens, topK], run.Weights),
        ]);
    }

    private static TensorToWrite Tensor<T>(string name, string type, long[] shape, T[] values) where T : unmanaged =>
        new(name, type, shape, stream => stream.Write(MemoryMarshal.AsBytes<T>(values)));

    private static BFloat16[] HiddenStates(SafetensorsFile file, TensorEntry tensor)
    {
        switch (tensor.Type)
        {
            case "BF16":
                return MemoryMarshal.Cast<byte, BFloat16>(file.Data(tensor.Name)).ToArray();
            case "F16":
                ReadOnlySpan<Half> halves = MemoryMarshal.Cast<byte, Half>(file.Data(tensor.Name));
                var fromHalf = new BFloat16[halves.Length];
                for (int i = 0; i < fromHalf.Length; i++) fromHalf[i] = BFloat16.FromSingle((float)halves[i]);
                return fromHalf;
            case "F32":
                ReadOnlySpan<float> floats = MemoryMarshal.Cast<byte, float>(file.Data(tensor.Name));
                var fromFloat = new BFloat16[floats.Length];
                for (int i = 0; i < fromFloat.Length; i++) fromFloat[i] = BFloat16.FromSingle(floats[i]);
                return fromFloat;
            default:
                throw new CheckpointException($"hidden_states in {file.Path} is {tensor.Type}; it must be BF16, F16 or F32.");
        }
    }

    private static int[] Ids(SafetensorsFile file, TensorEntry tensor)
    {
        switch (tensor.Type)
        {
            case "I32":
                return MemoryMarshal.Cast<byte, int>(file.Data(tensor.Name)).ToArray();
            case "I64":
                ReadOnlySpan<long> wide = MemoryMarshal.Cast<byte, long>(file.Data(tensor.Name));
                var ids = new int[wide.Length];
                for (int i = 0; i < ids.Length; i++) ids[i] = int.CreateSaturating(wide[i]); // what does not fit is out of range either way
                return ids;
            default:
                throw new CheckpointException($"topk_ids in {file.Path} is {tensor.Type}; it must be I32 or I64.");
        }
    }

    private static float[] Weights(SafetensorsFile file, TensorEntry tensor) =>
        tensor.Type == "F32"
            ? MemoryMarshal.Cast<byte, float>(file.Data(tensor.Name)).ToArray()
            : throw new CheckpointException($"topk_weights in {file.Path} is {tensor.Type}; it must be F32.");

    private static void CheckRouting(TensorEntry tensor, TensorEntry hidden, MoeLayer layer, string path)
    {
        if (tensor.Shape.Length != 2 || tensor.Shape[0] != hidden.Shape[0] || tensor.Shape[1] != layer.Router.TopK)
            throw new CheckpointException(
                $"{tensor.Name} in {path} is {tensor.ShapeText} but {hidden.Shape[0]} tokens and top-k {layer.Router.TopK} need " +
                    $"[{hidden.Shape[0]}, {layer.Router.TopK}].");
    }

    private static TensorEntry? Find(SafetensorsFile file, string name) => file.Tensors.TryGetValue(name, out TensorEntry? entry) ? entry : null;
}
