namespace MoeSharp;

/// <summary>All kernels of one build, loaded into one context. Shared by the layers of a GPU.</summary>
internal sealed class KernelSet : IDisposable
{
    private const int GemmThreads = 384, FewThreads = 416, QuantizeThreads = 1024, Threads = 256;
    private static readonly string[] s_activations = ["silu", "swiglustep", "gelu_tanh", "swigluoai"];
    private readonly Dictionary<string, CudaModule> _modules = [];
    private readonly Lock _start = new();
    private WideKernels? _wide;

    internal KernelSet(CudaContext context, string? build = null)
    {
        Context = context;
        Build = build ?? KernelManifest.Choose(DriverLibrary.Version);
        CudaModule gateUp = Load("gateup_activate"), down = Load("down"), quantize = Load("quantize_permute"), combine = Load("combine"), prepare = Load("prepare");
        GateUp = [.. s_activations.Select(name => gateUp.Kernel("gateup_" + name, GemmThreads, staged: true))];
        CudaModule few = Load("experts_few");
        Few = [.. s_activations.Select(name => few.Kernel("experts_few_" + name, FewThreads, staged: true))];
        GateUpPlain = gateUp.Kernel("gateup_plain", GemmThreads, staged: true);
        Down = down.Kernel("down", GemmThreads, staged: true);
        Quantize = quantize.Kernel("quantize_permute", QuantizeThreads);
        QuantizeRuns = Load("quantize_permute_runs").Kernel("quantize_permute_runs", QuantizeThreads, staged: true);
        Combine = combine.Kernel("combine", Threads);
        Prepare = prepare.Kernel("prepare", Threads);
        Weigh = Load("quantize_weigh").Kernel("quantize_weigh", Threads);
        Codes = Load("permute_codes").Kernel("permute_codes", Threads);
        SharedGate = Load("shared_gate").Kernel("shared_gate", Threads);
    }

    internal CudaContext Context { get; }

    /// <summary>Whether calls wait after each step, so that a fault is known by its step.</summary>
    internal bool ChecksSteps { get; init; }

    /// <summary>Version of the compiler that made them.</summary>
    internal string Build { get; }

    /// <summary>By <see cref="ActivationArguments.Kind"/>.</summary>
    internal CudaKernel[] GateUp { get; }

    /// <summary>All steps of few tokens, by <see cref="ActivationArguments.Kind"/>.</summary>
    internal CudaKernel[] Few { get; }

    /// <summary>GateUp with BF16 results before the activation, for tests.</summary>
    internal CudaKernel GateUpPlain { get; }

    internal CudaKernel Down { get; }

    internal CudaKernel Quantize { get; }

    /// <summary>The same of many rows: <see cref="DevicePlan.HasLongRuns"/>.</summary>
    internal CudaKernel QuantizeRuns { get; }

    internal CudaKernel Combine { get; }

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
    internal CudaModule Load(string file)
    {
        lock (_modules)
        {
            if (_modules.TryGetValue(file, out CudaModule? loaded)) return loaded;
            byte[] cubin = KernelManifest.Resource(Build, file + ".cubin") ?? throw new CudaException($"The assembly carries no kernel file {file}.cubin for build {Build}.", 0);
            return _modules[file] = new CudaModule(Context, cubin);
        }
    }

    public void Dispose()
    {
        foreach (CudaModule module in _modules.Values) module.Dispose();
    }
}
