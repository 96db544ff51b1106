using System.Runtime.InteropServices;

namespace MoeSharp.Tests;

/// <summary>Every stage against the recordings of DeepGEMM on the same kind of GPU: equality in every element, on poisoned workspaces.</summary>
[Trait("Category", "Cuda")]
public class CudaGoldenTests
{
    public static TheoryData<string, int, string> Cases
    {
        get
        {
            var cases = new TheoryData<string, int, string>();
            foreach (TheoryDataRow<string> name in Golden.Names)
                foreach (int copies in new[] { 1, 40 }) // few rows per expert, and many: both orientations
                    foreach (string build in KernelManifest.Builds) cases.Add(name.Data, copies, build);
            return cases;
        }
    }

    [Theory, MemberData(nameof(Cases))]
    public void EveryStageEqualsTheRecording(string name, int copies, string build)
    {
        Assert.SkipWhen(KernelManifest.Read(build) is null, $"This assembly carries no build {build}.");
        using CudaBackend backend = Gpu.Open();
        Assert.SkipWhen(Gpu.IsEmulated && copies > 1, "Too long for the emulator.");
        Assert.SkipWhen(build == "13.0" && DriverLibrary.Version < 13000, "The driver is older than build 13.0 needs.");
        Golden golden = Golden.OpenWhole(name);
        using ExpertWeights weights = golden.Load();
        ExpertsShape shape = ExpertsShape.From(golden.Options, weights);
        using var kernels = new KernelSet(backend.Context(), build);
        using var device = new DeviceWeights(kernels, weights, allowNaN: false);
        using var call = new DeviceCall(kernels, device, shape) { TakesSteps = true }; // one launch leaves no stages behind
        int tokens = golden.Tokens * copies;
        call.Prepare(tokens);
        using DeviceBuffer hidden = Upload(call, Repeat(golden.Get<BFloat16>("hidden"), copies)), ids = Upload(call, Repeat(golden.Ids, copies));
        using DeviceBuffer map = Upload(call, golden.ExpertMap), routerWeights = Upload(call, Repeat(golden.Weights, copies));
        using var output = new DeviceBuffer(backend.Context(), 2L * tokens * golden.Hidden, "output");
        foreach (bool splits in new[] { false, true }) // both GEMMs in one launch, where there are few rows, and in two
        {
            call.SplitsGemms = splits;
            call.Workspace.Fill(0xFF, call.Stream);
            call.Enqueue(hidden.Address, ids.Address, golden.ExpertMap.Length == 0 ? 0 : map.Address, routerWeights.Address, output.Address, false, call.Stream.Raw);
            var result = new BFloat16[tokens * golden.Hidden];
            output.Download<BFloat16>(result, call.Stream);
            Same(golden.Get<ushort>("output"), MemoryMarshal.Cast<BFloat16, ushort>(result), golden.Tokens * golden.Hidden, $"{name} x {copies}: output");
            CompareRows(golden, call, copies, name);
        }
        using var gateUp = new DeviceBuffer(backend.Context(), 2L * call.Sizes.IntermediateBlocks * call.Sizes.Capacity * 256, "plain results of GateUp");
        call.EnqueueGateUpPlain(hidden.Address, ids.Address, golden.ExpertMap.Length == 0 ? 0 : map.Address, gateUp.Address);
        CompareGateUp(golden, gateUp, call, copies, name);
    }

    /// <summary>The same mainloop with plain BF16 results: columns lie interleaved, 8 of gate and 8 of up.</summary>
    private static void CompareGateUp(Golden golden, DeviceBuffer results, DeviceCall call, int copies, string name)
    {
        int capacity = call.Sizes.Capacity, blocks = 2 * call.Sizes.IntermediateBlocks, columns = 2 * golden.Intermediate;
        var bytes = new byte[results.Bytes];
        results.Download<byte>(bytes, call.Stream);
        int[] rowOfSlot = Download<int>(call, Buffer.RowOfSlot), inverse = golden.Get<int>("inv_perm"), recorded = golden.RecordedRows;
        ushort[] mm1 = golden.Get<ushort>("mm1_out_rows"), ours = new ushort[columns];
        for (int slot = 0; slot < rowOfSlot.Length; slot++)
        {
            if (rowOfSlot[slot] < 0) continue;
            ReadOnlySpan<ushort> interleaved = MemoryMarshal.Cast<byte, ushort>(Gpu.Row(bytes, blocks, capacity, 256, rowOfSlot[slot]));
            for (int c = 0; c < columns; c++) ours[c / 16 * 8 + c % 8 + (c / 8 % 2) * golden.Intermediate] = interleaved[c];
            int at = Array.IndexOf(recorded, inverse[slot % inverse.Length]);
            Same<ushort>(mm1.AsSpan(at * columns, columns), ours, columns, $"{name} x {copies}, slot {slot}: results of GateUp");
        }
    }

    /// <summary>Results of Down and what Activate left, row by row through both permutations.</summary>
    private static void CompareRows(Golden golden, DeviceCall call, int copies, string name)
    {
        int[] rowOfSlot = Download<int>(call, Buffer.RowOfSlot), inverse = golden.Get<int>("inv_perm"), recorded = golden.RecordedRows;
        byte[] results = Download<byte>(call, Buffer.Results), intermediate = Download<byte>(call, Buffer.Intermediate);
        ushort[] mm2 = golden.Get<ushort>("mm2_out_rows");
        byte[] a2q = golden.Get<byte>("a2q_rows");
        float[] scales = Download<float>(call, Buffer.IntermediateScales), a2s = golden.Get<float>("a2_scale_rows");
        int capacity = call.Sizes.Capacity, blocks = call.Sizes.IntermediateBlocks;
        for (int slot = 0; slot < rowOfSlot.Length; slot++)
        {
            int row = rowOfSlot[slot], at = Array.IndexOf(recorded, inverse[slot % inverse.Length]);
            if (row < 0) continue;
            string where = $"{name} x {copies}, slot {slot}: ";
            byte[] down = Gpu.Row(results, call.Sizes.HiddenBlocks, capacity, 256, row), activated = Gpu.Row(intermediate, blocks, capacity, 128, row);
            Same(mm2.AsSpan(at * golden.Hidden, golden.Hidden), MemoryMarshal.Cast<byte, ushort>(down), golden.Hidden, where + "results of Down");
            Same<byte>(a2q.AsSpan(at * golden.Intermediate, golden.Intermediate), activated, golden.Intermediate, where + "intermediate");
            for (int b = 0; b < blocks; b++)
                Assert.True(a2s[at * blocks + b] == scales[b * capacity + row], where + $"scale {b} is {scales[b * capacity + row]:R}, recorded {a2s[at * blocks + b]:R}");
        }
    }

    private static void Same<T>(ReadOnlySpan<T> recorded, ReadOnlySpan<T> ours, int period, string what) where T : unmanaged, IEquatable<T>
    {
        for (int i = 0; i < ours.Length; i++)
            if (!ours[i].Equals(recorded[i % period])) Assert.Fail($"{what}: element {i} is {ours[i]}, recorded {recorded[i % period]}");
    }

    private static T[] Download<T>(DeviceCall call, Buffer buffer) where T : unmanaged
    {
        WorkspaceRow row = call.Plan.Rows[(int)buffer];
        var values = new T[row.Bytes / Marshal.SizeOf<T>()];
        call.Workspace.Download<T>(values, call.Stream, row.Offset);
        return values;
    }

    private static DeviceBuffer Upload<T>(DeviceCall call, T[] values) where T : unmanaged
    {
        var buffer = new DeviceBuffer(call.Stream.Context, (long)values.Length * Marshal.SizeOf<T>(), "a test's input");
        buffer.Upload<T>(values, call.Stream);
        return buffer;
    }

    private static T[] Repeat<T>(T[] values, int copies) => [.. Enumerable.Repeat(values, copies).SelectMany(v => v)];
}
