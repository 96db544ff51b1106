namespace MoeSharp.Tests;

/// <summary>A program with a stream and tensors of its own on the GPU, which calls one layer. The same routing can also go through host spans.</summary>
internal sealed class Caller : IDisposable
{
    private readonly CudaContext _context;
    private readonly FusedExperts _experts;
    private readonly DeviceBuffer _hidden, _ids, _weights, _output;
    private readonly BFloat16[] _hostHidden;
    private readonly float[] _hostWeights;
    private readonly int _tokens, _topK, _h;

    public Caller(CudaBackend backend, FusedExperts experts, int tokens)
    {
        _context = backend.Context();
        _experts = experts;
        (_tokens, _topK, _h) = (tokens, experts.Shape.TopK, experts.HiddenSize);
        _hostHidden = RandomLayer.Hidden(tokens, _h, 2);
        _hostWeights = RandomLayer.TopkWeights(tokens, _topK, 4);
        Stream = new(_context);
        _hidden = Upload<BFloat16>(_hostHidden);
        _weights = Upload<float>(_hostWeights);
        _ids = Upload<int>(new int[tokens * _topK]);
        _output = new(_context, 4L * tokens * _h, "output");
        Blank();
    }

    public CudaStream Stream { get; }

    public BFloat16[] Hidden => _hostHidden;

    public float[] Weights => _hostWeights;

    public CudaCall Call => new()
    {
        Tokens = _tokens,
        Hidden = (nint)_hidden.Address,
        TopkIds = (nint)_ids.Address,
        TopkWeights = (nint)_weights.Address,
        Output = (nint)_output.Address,
    };

    public CudaCall CallF32 => Call with { Output = 0, OutputF32 = (nint)_output.Address };

    public void Route(int[] ids) => _ids.Upload<int>(ids, Stream);

    /// <summary>Makes the output NaN.</summary>
    public void Blank() => _output.Fill(0xFF, Stream);

    /// <summary>The output so far, without waiting for anything in the emulator.</summary>
    public T[] Output<T>() where T : unmanaged
    {
        var output = new T[_tokens * _h];
        _output.Download<T>(output, Stream);
        return output;
    }

    public BFloat16[] WithSpans(int[] ids)
    {
        var output = new BFloat16[_tokens * _h];
        _experts.Forward(_hostHidden, ids, _hostWeights, output);
        return output;
    }

    public float[] WithSpansF32(int[] ids)
    {
        var output = new float[_tokens * _h];
        _experts.Forward(new ExpertsInput { Hidden = _hostHidden, TopkIds = ids, TopkWeights = _hostWeights }, output);
        return output;
    }

    public DeviceBuffer Upload<T>(ReadOnlySpan<T> values) where T : unmanaged
    {
        var buffer = new DeviceBuffer(_context, (long)values.Length * System.Runtime.CompilerServices.Unsafe.SizeOf<T>(), "a tensor");
        buffer.Upload(values, Stream);
        return buffer;
    }

    public void Dispose()
    {
        foreach (DeviceBuffer buffer in new[] { _hidden, _ids, _weights, _output }) buffer.Dispose();
        Stream.Dispose();
    }
}
