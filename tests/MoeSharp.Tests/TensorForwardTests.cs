using System.Numerics.Tensors;

namespace MoeSharp.Tests;

public class TensorForwardTests
{
    private const int T = 3, H = 160, K = 3;
    private readonly BFloat16[] _hidden = new TinyLayer().HiddenStates(T);

    [Fact]
    public void TensorsGiveWhatSpansGive()
    {
        using var layer = new MoeLayer(new TinyLayer().Parts());
        BFloat16[] expected = new BFloat16[T * H], output = new BFloat16[T * H];
        float[] expectedF32 = new float[T * H], outputF32 = new float[T * H];
        layer.Forward(_hidden, expected);
        layer.Forward(_hidden, expectedF32);
        layer.Forward(new ReadOnlyTensorSpan<BFloat16>(_hidden, [T, H]), new TensorSpan<BFloat16>(output, [T, H]));
        layer.Forward(new ReadOnlyTensorSpan<BFloat16>(_hidden, [T, H]), new TensorSpan<float>(outputF32, [T, H]));
        Assert.Equal(expected, output);
        Assert.Equal(expectedF32, outputF32);
        int[] ids = [0, 1, 2, 3, 4, 5, -1, 0, 2];
        float[] weights = [.. Enumerable.Range(1, T * K).Select(i => 1f / i)];
        layer.Experts.Forward(_hidden, ids, weights, expected);
        layer.Experts.Forward(new ExpertsInput { Hidden = _hidden, TopkIds = ids, TopkWeights = weights }, expectedF32);
        layer.Experts.Forward(new ReadOnlyTensorSpan<BFloat16>(_hidden, [T, H]), new ReadOnlyTensorSpan<int>(ids, [T, K]), new ReadOnlyTensorSpan<float>(weights, [T, K]), new TensorSpan<BFloat16>(output, [T, H]));
        layer.Experts.Forward(new ReadOnlyTensorSpan<BFloat16>(_hidden, [T, H]), new ReadOnlyTensorSpan<int>(ids, [T, K]), new ReadOnlyTensorSpan<float>(weights, [T, K]), new TensorSpan<float>(outputF32, [T, H]));
        Assert.Equal(expected, output);
        Assert.Equal(expectedF32, outputF32);
    }

    /// <summary>Any run of whole tokens is dense, none and one included.</summary>
    [Theory, InlineData(0, 0), InlineData(0, 1), InlineData(1, 2), InlineData(2, 1), InlineData(0, 3)]
    public void SlicesOfTokensAreDense(int first, int count)
    {
        using var layer = new MoeLayer(new TinyLayer().Parts());
        BFloat16[] expected = new BFloat16[T * H], output = new BFloat16[T * H];
        layer.Forward(_hidden, expected);
        ReadOnlyTensorSpan<BFloat16> hidden = new ReadOnlyTensorSpan<BFloat16>(_hidden, [T, H]).Slice([first..(first + count), Range.All]);
        layer.Forward(hidden, new TensorSpan<BFloat16>(output, [T, H]).Slice([first..(first + count), Range.All]));
        for (int i = 0; i < T * H; i++)
            Assert.Equal(i >= first * H && i < (first + count) * H ? expected[i] : default, output[i]);
    }

    [Fact]
    public void WrongShapesAreOneSentence()
    {
        using var layer = new MoeLayer(new TinyLayer().Parts());
        Assert.Equal("hidden_states has shape [160, 3] but [160, 160] is needed. (Parameter 'hidden_states')", Refusal([H, T], null, [T, H]));
        Assert.Equal("hidden_states has shape [480] but [480, 160] is needed. (Parameter 'hidden_states')", Refusal([T * H], null, [T, H]));
        Assert.Equal("output has shape [3, 1, 160] but [3, 160] is needed. (Parameter 'output')", Refusal([T, H], null, [T, 1, H]));
        Assert.Equal("hidden_states has strides [0, 1] but its rows must follow one another ([160, 1]); give a dense copy. (Parameter 'hidden_states')", Refusal([T, H], [0, 1], [T, H]));
        Assert.Equal("hidden_states has strides [1, 3] but its rows must follow one another ([160, 1]); give a dense copy. (Parameter 'hidden_states')", Refusal([T, H], [1, T], [T, H]));

        string Refusal(nint[] hidden, nint[]? strides, nint[] output) => Assert.Throws<ArgumentException>(() =>
            layer.Forward(strides is null ? new(_hidden, hidden) : new ReadOnlyTensorSpan<BFloat16>(_hidden, hidden, strides), new TensorSpan<BFloat16>(new BFloat16[T * H], output))).Message;
    }

    [Fact]
    public void ColumnsOfWiderRowsAreRefused()
    {
        using var layer = new MoeLayer(new TinyLayer().Parts());
        string message = Assert.Throws<ArgumentException>(() =>
        {
            ReadOnlyTensorSpan<BFloat16> wide = new(new BFloat16[T * 2 * H], [T, 2 * H]);
            layer.Forward(wide.Slice([Range.All, 0..H]), new TensorSpan<BFloat16>(new BFloat16[T * H], [T, H]));
        }).Message;
        Assert.Contains("hidden_states has strides [320, 1]", message);
    }

    [Fact]
    public void IdsAreCheckedLikeTheRest()
    {
        using var layer = new MoeLayer(new TinyLayer().Parts());
        string message = Assert.Throws<ArgumentException>(() => layer.Experts.Forward(new ReadOnlyTensorSpan<BFloat16>(_hidden, [T, H]), new ReadOnlyTensorSpan<int>(new int[T * K], [K * T, 1]),
            new ReadOnlyTensorSpan<float>(new float[T * K], [T, K]), new TensorSpan<BFloat16>(new BFloat16[T * H], [T, H]))).Message;
        Assert.StartsWith("topk_ids has shape [9, 1] but [3, 3] is needed.", message, StringComparison.Ordinal);
    }
}
