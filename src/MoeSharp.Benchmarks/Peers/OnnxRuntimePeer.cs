using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace MoeSharp.Benchmarks;

/// <summary>
/// ONNX Runtime's QMoE on its CPU provider: int8 weights, packed at load; activations quantized to int8 by its kernels. Its softmax over the k
/// highest logits gives back the router weights whose logarithms it gets.
/// </summary>
internal sealed unsafe class OnnxRuntimePeer : IPeer
{
    private const float NotChosen = -1e4f;
    private readonly ExpertsShape _shape;
    private readonly Int8Experts _weights;
    private readonly List<IDisposable> _held = [];
    private readonly InferenceSession _session;
    private readonly RunOptions _run = new();
    private float[] _input = [], _logits = [], _output = [];
    private OrtValue[] _inputs = [], _outputs = [];
    private int _tokens;

    public OnnxRuntimePeer(ExpertsShape shape, ExpertWeights weights, int threads)
    {
        _shape = shape;
        _weights = new Int8Experts(weights);
        using var options = new SessionOptions { IntraOpNumThreads = threads, InterOpNumThreads = 1, ExecutionMode = ExecutionMode.ORT_SEQUENTIAL };
        long e = shape.Experts, h = shape.Hidden, i = shape.Intermediate, block = QMoeModel.BlockSize;
        Give(options, QMoeModel.Weights1, TensorElementType.UInt8, _weights.Weights1, [e, 2 * i, h]);
        Give(options, QMoeModel.Scales1, TensorElementType.Float, _weights.Scales1, [e, 2 * i, h / block]);
        Give(options, QMoeModel.Weights2, TensorElementType.UInt8, _weights.Weights2, [e, h, i]);
        Give(options, QMoeModel.Scales2, TensorElementType.Float, _weights.Scales2, [e, h, i / block]);
        _session = Open(QMoeModel.Create(shape), options);
    }

    /// <summary>The session wants to see the files in which the model says that its weights are, though it gets the weights from memory.</summary>
    private static InferenceSession Open(byte[] model, SessionOptions options)
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("moesharp-qmoe-");
        try
        {
            foreach (string name in (string[])[QMoeModel.Weights1, QMoeModel.Scales1, QMoeModel.Weights2, QMoeModel.Scales2])
                File.WriteAllBytes(Path.Combine(folder.FullName, name), []);
            string file = Path.Combine(folder.FullName, "model.onnx");
            File.WriteAllBytes(file, model);
            return new InferenceSession(file, options);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    public string Name => $"ONNX Runtime {OrtEnv.Instance().GetVersionString()}";

    public string Format => "QMoE int8 b128";

    public long ExpertBytes => 3L * _shape.Hidden * _shape.Intermediate / QMoeModel.BlockSize * (QMoeModel.BlockSize + sizeof(float));

    public ReadOnlySpan<float> Output => _output.AsSpan(0, _tokens * _shape.Hidden);

    public void Set(ReadOnlySpan<BFloat16> hidden, ReadOnlySpan<int> ids, ReadOnlySpan<float> weights)
    {
        int tokens = ids.Length / _shape.TopK;
        if (tokens != _tokens) Resize(tokens);
        for (int i = 0; i < hidden.Length; i++) _input[i] = hidden[i].ToSingle();
        Array.Fill(_logits, NotChosen);
        for (int slot = 0; slot < ids.Length; slot++) _logits[slot / _shape.TopK * _shape.Experts + ids[slot]] = MathF.Log(weights[slot]);
    }

    public void Run() => _session.Run(_run, [QMoeModel.Input, QMoeModel.RouterLogits], _inputs, [QMoeModel.Output], _outputs);

    private void Resize(int tokens)
    {
        foreach (OrtValue value in _inputs.Concat(_outputs)) value.Dispose();
        _tokens = tokens;
        _input = new float[tokens * _shape.Hidden];
        _logits = new float[tokens * _shape.Experts];
        _output = new float[tokens * _shape.Hidden];
        _inputs = [OrtValue.CreateTensorValueFromMemory(_input, [tokens, _shape.Hidden]), OrtValue.CreateTensorValueFromMemory(_logits, [tokens, _shape.Experts])];
        _outputs = [OrtValue.CreateTensorValueFromMemory(_output, [tokens, _shape.Hidden])];
    }

    private void Give(SessionOptions options, string name, TensorElementType type, NativeBuffer buffer, long[] dimensions)
    {
        OrtValue value = OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, type, dimensions, (nint)buffer.Pointer, buffer.Bytes);
        _held.Add(value);
        options.AddInitializer(name, value);
    }

    public void Dispose()
    {
        _session.Dispose();
        _run.Dispose();
        foreach (IDisposable held in _held.Concat(_inputs).Concat(_outputs)) held.Dispose();
        _weights.Dispose();
    }
}
