namespace MoeSharp;

/// <summary>How bad a finding is.</summary>
internal enum Severity
{
    /// <summary>Wrong results or no results.</summary>
    Error,
    /// <summary>Suspicious; the checkpoint may still run as intended.</summary>
    Warning,
}

/// <summary>A kind of finding, as docs/doctor.md lists them.</summary>
/// <param name="Name">What --json calls it.</param>
/// <param name="Severity">Of every finding of this kind.</param>
/// <param name="Why">Why it matters, one sentence.</param>
/// <param name="Remedy">What to do, one sentence.</param>
internal sealed record FindingCode(string Name, Severity Severity, string Why, string Remedy)
{
    private const string Again = "Download or convert the file again.";
    private const string Requantize = "Quantize the tensor again from its BF16 source.";

    public static readonly FindingCode ConfigUnsupported = new("config-unsupported", Severity.Error,
        "Layers cannot be audited against a config that is not understood.", "Correct config.json, or use a model of a supported family and format.");
    public static readonly FindingCode IndexInvalid = new("index-invalid", Severity.Error,
        "Loaders find tensors through the index.", "Restore model.safetensors.index.json from the source.");
    public static readonly FindingCode IndexMissing = new("index-missing", Severity.Error,
        "Without an index loaders do not know which files make up the model.", "Restore model.safetensors.index.json, or complete the download.");
    public static readonly FindingCode IndexDuplicate = new("index-duplicate", Severity.Error,
        "Which entry counts depends on the loader.", "Remove one of the entries.");
    public static readonly FindingCode IndexSize = new("index-total-size", Severity.Warning,
        "Tools that plan memory by total_size plan wrongly; a shard may be of another revision.",
        "Correct metadata.total_size in the index, or download again.");
    public static readonly FindingCode IndexPath = new("index-path", Severity.Error,
        "A name with a path can lead a loader out of the checkpoint's folder.",
        "Do not load this checkpoint before you trust its index; names of files must be plain.");
    public static readonly FindingCode IndexStale = new("index-stale", Severity.Error,
        "Loaders look for the tensor where it is not.", "Restore index and shards from the same revision.");
    public static readonly FindingCode ShardMissing = new("shard-missing", Severity.Error,
        "Its tensors cannot be loaded and were not audited.", "Complete the download.");
    public static readonly FindingCode ShardUnreadable = new("shard-unreadable", Severity.Error,
        "Its tensors cannot be loaded and were not audited.", Again);
    public static readonly FindingCode ShardUnlisted = new("shard-unlisted", Severity.Warning,
        "Loaders that read every file see other tensors than those that follow the index.",
        "Remove the file if it is left over, or list it in the index.");
    public static readonly FindingCode TensorDuplicated = new("tensor-duplicated", Severity.Error,
        "Which copy is loaded depends on the loader.", "Keep one of the copies.");
    public static readonly FindingCode TensorUnlisted = new("tensor-unlisted", Severity.Warning,
        "Loaders that follow the index do not load it.", "List it in the index, or remove it from the file.");
    public static readonly FindingCode TensorMissing = new("tensor-missing", Severity.Error,
        "The layer cannot be built without it.", "Complete the download, or convert the model again.");
    public static readonly FindingCode TensorExtra = new("tensor-extra", Severity.Error,
        "Nothing would use it, so the checkpoint is of another kind than its config says.",
        "Compare the tensor with config.json and correct whichever is wrong.");
    public static readonly FindingCode TensorMisnamed = new("tensor-misnamed", Severity.Error,
        "Loaders find tensors by name only.", "Rename the tensor in the file and in the index.");
    public static readonly FindingCode WeightType = new("weight-dtype", Severity.Error,
        "Its bytes would be read as another type, or refused.", "Make quantization_config and tensor agree, ignore lists included.");
    public static readonly FindingCode WeightShape = new("weight-shape", Severity.Error,
        "The layer's products are not defined.", "Compare the tensor with config.json and correct whichever is wrong.");
    public static readonly FindingCode ScaleMissing = new("scale-missing", Severity.Error,
        "FP8 values without scales are wrong by orders of magnitude.", "Add the scales (..._scale_inv or ..._scale) that belong to the values.");
    public static readonly FindingCode ScaleType = new("scale-dtype", Severity.Error,
        "The scales would be read as another type.",
        "Store scales as quantization_config says: U8 or F8_E8M0 for MXFP8; F32, BF16, F16, U8 or F8_E8M0 for 128 x 128 blocks.");
    public static readonly FindingCode ScaleShape = new("scale-shape", Severity.Error,
        "Scales cannot be assigned to values.", "Store one scale per block of quantization_config.");
    public static readonly FindingCode ScaleGranularity = new("scale-granularity", Severity.Error,
        "Each scale would be applied to the wrong values.", "Correct weight_block_size in quantization_config, or quantize again with it.");
    public static readonly FindingCode ScaleZero = new("scale-zero", Severity.Error,
        "The block's weights all become 0, and kernels that divide give NaN.", Requantize);
    public static readonly FindingCode ScaleSubnormal = new("scale-subnormal", Severity.Warning,
        "Processors that flush subnormals read 0, others do not.", Requantize);
    public static readonly FindingCode ScaleNaN = new("scale-nan", Severity.Error,
        "Every output that meets the block becomes NaN.", Again);
    public static readonly FindingCode ScaleInfinite = new("scale-inf", Severity.Error,
        "Every output that meets the block becomes infinite or NaN.", Requantize);
    public static readonly FindingCode ScaleNegative = new("scale-negative", Severity.Error,
        "Scales are magnitudes; a sign comes from damage or another meaning of the bytes.", Again);
    public static readonly FindingCode ScaleTiny = new("scale-tiny", Severity.Warning,
        "The expert is dead there: its weights are practically 0, and some kernels give NaN for them.",
        "Expect nothing of this expert; where outputs turn NaN, replace such scales and their values by zero values with scale 1.");
    public static readonly FindingCode ScaleNotPowerOfTwo = new("scale-not-pow2", Severity.Error,
        "quantization_config claims UE8M0 scales; kernels keep the exponent alone and inflate or shrink the block.",
        "Quantize again with power-of-two scales, or remove scale_fmt; do not round the scales alone.");
    public static readonly FindingCode ScaleE8M0NaN = new("scale-e8m0-nan", Severity.Error,
        "Code 255 is NaN, and some kernels read infinity.", Again);
    public static readonly FindingCode PayloadNaN = new("payload-nan", Severity.Error,
        "Codes 0x7F and 0xFF are NaN; every output that meets them becomes NaN.",
        "Download again; if it stays, the file is of another FP8 kind or was quantized wrongly.");
    public static readonly FindingCode PayloadNonFinite = new("payload-nonfinite", Severity.Error,
        "Every output that meets the value becomes NaN or infinite.", Again);
    public static readonly FindingCode PayloadSaturated = new("payload-saturated", Severity.Warning,
        "More than 1 % of a block at +-448 means that values were cut off: the scale was too small.", Requantize);
    public static readonly FindingCode BlockZero = new("block-zero", Severity.Warning,
        "Trained weights are hardly ever all zero; the block may be padding, pruned or lost.", "Compare with the BF16 source.");
    public static readonly FindingCode RouterNonFinite = new("router-nonfinite", Severity.Error,
        "A router that is not finite chooses experts at random or none.", Again);
    public static readonly FindingCode IgnoreUnmatched = new("ignore-unmatched", Severity.Warning,
        "An entry that matches no module is a misspelling or left over; what it meant to keep may have been quantized.",
        "Correct or remove the entry in quantization_config.");
    public static readonly FindingCode IgnoreInvalid = new("ignore-invalid", Severity.Error,
        "Loaders cannot decide which modules are quantized.", "Correct the pattern in quantization_config.");

    /// <summary>Every code.</summary>
    public static IReadOnlyList<FindingCode> All { get; } =
    [
        ConfigUnsupported, IndexInvalid, IndexMissing, IndexDuplicate, IndexSize, IndexPath, IndexStale, ShardMissing, ShardUnreadable, ShardUnlisted,
        TensorDuplicated, TensorUnlisted, TensorMissing, TensorExtra, TensorMisnamed, WeightType, WeightShape,
        ScaleMissing, ScaleType, ScaleShape, ScaleGranularity, ScaleZero, ScaleSubnormal, ScaleNaN, ScaleInfinite, ScaleNegative, ScaleTiny,
        ScaleNotPowerOfTwo, ScaleE8M0NaN, PayloadNaN, PayloadNonFinite, PayloadSaturated, BlockZero, RouterNonFinite, IgnoreUnmatched, IgnoreInvalid,
    ];
}

/// <summary>Something that is wrong or looks wrong, and where.</summary>
/// <param name="Code">What kind.</param>
/// <param name="What">What was found, one sentence; a finding about several blocks of a tensor says how many.</param>
/// <param name="At">Where.</param>
internal sealed record Finding(FindingCode Code, string What, Place At)
{
    /// <summary>What was found, one line.</summary>
    public string What { get; } = PlainText.Of(What);

    /// <summary>What, why it matters, what to do.</summary>
    public string Message => $"{What} {Code.Why} {Code.Remedy}";
}

/// <summary>Coordinates; null where one does not apply.</summary>
/// <param name="File">Name in the folder.</param>
/// <param name="Tensor">Its name.</param>
/// <param name="Layer">Decoder layer.</param>
/// <param name="Expert">Routed expert; null for a router or shared experts.</param>
/// <param name="Block">Row and column in the matrix of scales of the (first) block.</param>
internal readonly record struct Place(string? File = null, string? Tensor = null, int? Layer = null, int? Expert = null,
    (int Row, int Column)? Block = null);
