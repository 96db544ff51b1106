namespace MoeSharp;

/// <summary>All kernels of one build, loaded into one context. Shared by the layers of a GPU.</summary>
internal sealed class KernelSet : IDisposable
{
    private const int GemmThreads = 384, FewThreads = 416, QuantizeThreads = 1024, Threads = 256;
    private static readonly string[] s_activations = ["silu", "swiglustep", "gelu_tanh", "swigluoai"];
    private readonly Dictionary<(string File, string Build), CudaModule> _modules = [];
    private readonly Lock _start = new();
    private WideKernels? _wide;

    internal KernelSet(CudaContext context, string? build = null)
    {
        Context = context;
        Build = build ?? KernelManifest.Builds[0];
        string newest = build ?? KernelManifest.Choose(DriverLibrary.Version);
        FewRows = Gemms(Build);
        ManyRows = newest == Build ? FewRows : Gemms(newest);
        CudaModule quantize = Load("quantize_permute"), combine = Load("combine"), prepare = Load("prepare");
        CudaModule few = Load("experts_few"), both = Load("gateup_down");
        GateUpDown = [.. s_activations.Select(name => both.Kernel("gateup_down_" + name, GemmThreads, staged: true))];
        Few = [.. s_activations.Select(name => few.Kernel("experts_few_" + name, FewThreads, staged: true))];
        Quantize = quantize.Kernel("quantize_permute", QuantizeThreads);
        QuantizeRagged = quantize.Kernel("quantize_permute_ragged", QuantizeThreads);
        QuantizeRuns = Load("quantize_permute_runs").Kernel("quantize_permute_runs", QuantizeThreads, staged: true);
        Combine = combine.Kernel("combine", Threads);
        CombineMany = combine.Kernel("combine_many", Threads);
        Prepare = prepare.Kernel("prepare", Threads);
        Weigh = Load("quantize_weigh").Kernel("quantize_weigh", Threads);
        Codes = Load("permute_codes").Kernel("permute_codes", Threads);
        SharedGate = Load("shared_gate").Kernel("shared_gate", Threads);
    }

    internal CudaContext Context { get; }

    /// <summary>Whether calls wait after each step, so that a fault is known by its step.</summary>
    internal bool ChecksSteps { get; init; }

    /// <summary>Version of the compiler that made them, but for <see cref="ManyRows"/>.</summary>
    internal string Build { get; }

    /// <summary>The GEMMs with the finer ring, from the older compiler: 1 to 6 % faster at T = 2048.</summary>
    internal GroupedGemms FewRows { get; }

    /// <summary>The same with the same bits, with the coarse ring and from the newer compiler, where the driver runs it: up to 6 % faster with many rows (<see cref="DevicePlan.HasManyRows"/>).</summary>
    internal GroupedGemms ManyRows { get; }

    /// <summary>Both GEMMs in one launch, by <see cref="ActivationArguments.Kind"/>.</summary>
    internal CudaKernel[] GateUpDown { get; }

    /// <summary>All steps of few tokens, by <see cref="ActivationArguments.Kind"/>.</summary>
    internal CudaKernel[] Few { get; }

    internal CudaKernel Quantize { get; }

    /// <summary>The same where the hidden size is no multiple of <see cref="DevicePlan.WholeChunk"/>.</summary>
    internal CudaKernel QuantizeRagged { get; }

    /// <summary>The same of many rows: <see cref="DevicePlan.HasLongRuns"/>.</summary>
    internal CudaKernel QuantizeRuns { get; }

    internal CudaKernel Combine { get; }

    /// <summary>The same of many tokens: <see cref="DevicePlan.CombineGrid"/>.</summary>
    internal CudaKernel CombineMany { get; }

    internal CudaKernel Prepare { get; }

    internal CudaKernel SharedGate { get; }

    /// <summary>Router weights onto the input.</summary>
    internal CudaKernel Weigh { get; }

    /// <summary>Rows that the caller quantized to their places.</summary>
    internal CudaKernel Codes { get; }

    /// <summary>Queues weights of the shared experts: sigmoid of hidden states [T, H] times the gate [H].</summary>
    internal void EnqueueSharedGate(ulong hidden, ulong gate, ulong weights, int tokens, int hiddenSize, nint stream)
    {
        const int tokensPerBlock = Threads / 16;
        SharedGate.Launch(new SharedGateArguments { Hidden = hidden, Gate = gate, Weights = weights, Tokens = tokens, HiddenSize = hiddenSize },
            Formats.Blocks(tokens, tokensPerBlock), stream);
        Check(Step.Route, stream);
    }

    /// <summary>Those for weights that are decoded to BF16.</summary>
    internal WideKernels Wide
    {
        get
        {
            lock (_start) return _wide ??= new WideKernels(this);
        }
    }

    /// <summary>Where steps are checked: the stream has not failed yet.</summary>
    internal void RequireHealth(nint stream)
    {
        if (ChecksSteps && Wait(stream) is var result and not 0) throw Native.Failure(result, nameof(Native.cuStreamSynchronize));
    }

    /// <summary>Where steps are checked: waits for this one.</summary>
    internal void Check(Step step, nint stream)
    {
        if (ChecksSteps && Wait(stream) is var result and not 0) throw Native.Failure(result, step, Context);
    }

    /// <summary>A stream that captures has nothing to wait for.</summary>
    private static int Wait(nint stream) => CudaStream.IsCapturing(stream) ? 0 : Native.cuStreamSynchronize(stream);

    /// <summary>A file of the build, loaded when first asked for; it lives as long as this does.</summary>
    internal CudaModule Load(string file) => Load(file, KernelManifest.Carries(Build, file) ? Build : KernelManifest.Builds[0]);

    private CudaModule Load(string file, string build)
    {
        lock (_modules)
        {
            if (_modules.TryGetValue((file, build), out CudaModule? loaded)) return loaded;
            byte[] cubin = KernelManifest.Resource(build, file + ".cubin") ?? throw new CudaException($"The assembly carries no kernel file {file}.cubin for build {build}.", 0);
            return _modules[(file, build)] = new CudaModule(Context, cubin);
        }
    }

    private GroupedGemms Gemms(string build)
    {
        CudaModule gateUp = Load("gateup_activate", build);
        return new([.. s_activations.Select(name => gateUp.Kernel("gateup_" + name, GemmThreads, staged: true))], gateUp.Kernel("gateup_plain", GemmThreads, staged: true),
            Load("down", build).Kernel("down", GemmThreads, staged: true));
    }

    public void Dispose()
    {
        foreach (CudaModule module in _modules.Values) module.Dispose();
    }
}

/// <summary>The grouped GEMMs of one build.</summary>
/// <param name="GateUp">By <see cref="ActivationArguments.Kind"/>.</param>
/// <param name="GateUpPlain">GateUp with BF16 results before the activation, for tests.</param>
/// <param name="Down">Down.</param>
internal sealed record GroupedGemms(CudaKernel[] GateUp, CudaKernel GateUpPlain, CudaKernel Down);
