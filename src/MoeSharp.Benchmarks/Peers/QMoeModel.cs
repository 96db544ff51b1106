namespace MoeSharp.Benchmarks;

/// <summary>
/// An ONNX model of one node, ONNX Runtime's QMoE: int8 weights with an FP32 scale per row and 128 columns, gate and up rows interleaved. The weights are
/// declared here and given to the session. T tokens, E experts, H hidden, I intermediate.
/// </summary>
internal static class QMoeModel
{
    public const string Weights1 = "fc1_experts_weights", Scales1 = "fc1_scales", Weights2 = "fc2_experts_weights", Scales2 = "fc2_scales";
    public const string Input = "input", RouterLogits = "router_probs", Output = "output";
    public const int BlockSize = 128;

    private const int IrVersion = 10, OnnxOpset = 21;
    private const int Float32 = 1, UInt8 = 2; // TensorProto.DataType
    private const int AttributeFloat = 1, AttributeInt = 2, AttributeString = 3; // AttributeProto.AttributeType

    /// <summary>The bytes of the model file.</summary>
    public static byte[] Create(ExpertsShape shape)
    {
        int e = shape.Experts, h = shape.Hidden, i = shape.Intermediate;
        Protobuf graph = new Protobuf()
            .Message(1, Node(shape))
            .Text(2, "qmoe")
            .Message(5, Declaration(Weights1, UInt8, e, 2 * i, h))
            .Message(5, Declaration(Scales1, Float32, e, 2 * i, h / BlockSize))
            .Message(5, Declaration(Weights2, UInt8, e, h, i))
            .Message(5, Declaration(Scales2, Float32, e, h, i / BlockSize))
            .Message(11, Value(Input, h))
            .Message(11, Value(RouterLogits, e))
            .Message(12, Value(Output, h));
        return new Protobuf().Varint(1, IrVersion).Message(7, graph).Message(8, Opset("", OnnxOpset)).Message(8, Opset("com.microsoft", 1)).Bytes.ToArray();
    }

    private static Protobuf Node(ExpertsShape shape)
    {
        var node = new Protobuf();
        foreach (string input in (string[])[Input, RouterLogits, Weights1, Scales1, "", Weights2, Scales2]) node.Text(1, input); // "": no bias
        return node.Text(2, Output).Text(3, "qmoe").Text(4, "QMoE").Text(7, "com.microsoft")
            .Message(5, Attribute("activation_type", AttributeString).Text(4, "swiglu"))
            .Message(5, Attribute("activation_alpha", AttributeFloat).Float(2, 1))
            .Message(5, Attribute("activation_beta", AttributeFloat).Float(2, 0))
            .Message(5, Attribute("swiglu_fusion", AttributeInt).Varint(3, 1))
            .Message(5, Attribute("k", AttributeInt).Varint(3, shape.TopK))
            .Message(5, Attribute("normalize_routing_weights", AttributeInt).Varint(3, 1))
            .Message(5, Attribute("expert_weight_bits", AttributeInt).Varint(3, 8))
            .Message(5, Attribute("block_size", AttributeInt).Varint(3, BlockSize));
    }

    private static Protobuf Attribute(string name, int type) => new Protobuf().Text(1, name).Varint(20, type);

    private static Protobuf Opset(string domain, int version) => new Protobuf().Text(1, domain).Varint(2, version);

    /// <summary>A TensorProto whose data is said to lie elsewhere.</summary>
    private static Protobuf Declaration(string name, int type, params int[] dimensions)
    {
        var tensor = new Protobuf();
        foreach (int dimension in dimensions) tensor.Varint(1, dimension);
        return tensor.Varint(2, type).Text(8, name).Message(13, new Protobuf().Text(1, "location").Text(2, name)).Varint(14, 1);
    }

    /// <summary>A ValueInfoProto: FP32 [T, width].</summary>
    private static Protobuf Value(string name, int width)
    {
        Protobuf dimensions = new Protobuf().Message(1, new Protobuf().Text(2, "T")).Message(1, new Protobuf().Varint(1, width));
        return new Protobuf().Text(1, name).Message(2, new Protobuf().Message(1, new Protobuf().Varint(1, Float32).Message(2, dimensions)));
    }
}
