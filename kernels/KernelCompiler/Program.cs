using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace MoeSharp.Kernels;

/// <summary>
/// Compiles kernels/*.cu ahead of time: KernelCompiler NVRTC-LIBRARY [--check]. Writes kernels/prebuilt/VERSION with a manifest; with --check it writes nothing
/// and fails where what lies there is not, byte for byte, what comes out now, or a kernel spills registers. Either way it fails where a kernel overwrites what its products still read (<see cref="PendingProducts"/>).
/// </summary>
internal static partial class Program
{
    private const int OldestCompiler = 12040;

    /// <summary>What compilers after the oldest make, for calls of many rows; with few rows they are slower, and the wide kernels spill (docs/cuda.md).</summary>
    private static readonly string[] s_ofManyRows = ["down", "gateup_activate"];

    /// <summary>Files whose products take an operand from registers.</summary>
    private static readonly string[] s_ofOperands = ["experts_few_wide", "gateup_down_wide"];

    private static int Main(string[] args)
    {
        if (args.Length is 0 or > 2 || (args.Length == 2 && args[1] != "--check"))
        {
            Console.Error.WriteLine("usage: KernelCompiler NVRTC-LIBRARY [--check]");
            return 2;
        }
        string kernels = Folder();
        var compiler = new Nvrtc(args[0]);
        int version = compiler.Version;
        string target = Path.Combine(kernels, "prebuilt", $"{version / 1000}.{version % 1000 / 10}"), hash = SourceHash(kernels);
        bool check = args.Length == 2;
        Directory.CreateDirectory(target);
        var reports = new List<Report>();
        List<string> stale = [], overwritten = [];
        foreach (string source in Directory.EnumerateFiles(kernels, "*.cu").Order(StringComparer.Ordinal))
        {
            string name = Path.GetFileNameWithoutExtension(source);
            bool manyRows = version > OldestCompiler;
            if (manyRows && !s_ofManyRows.Contains(name)) continue;
            string[] more = manyRows ? ["-DMANY_ROWS"] : [];
            (byte[] cubin, string log) = compiler.Compile(source, more);
            if (s_ofOperands.Contains(name)) overwritten.AddRange(PendingProducts.Overwritten(compiler.Ptx(source, more)));
            Put(Path.Combine(target, name + ".cubin"), cubin);
            reports.AddRange(Reports(name, log));
            foreach (Match warning in Serialized().Matches(log)) Console.Error.WriteLine($"{name}: {warning.Value}");
        }
        Put(Path.Combine(target, "manifest.json"), Manifest(hash, version, reports));
        foreach (string file in Directory.EnumerateFiles(target, "*.cubin").Where(f => !reports.Exists(r => r.File == Path.GetFileNameWithoutExtension(f))).ToArray())
        {
            if (check) stale.Add(file); // of a source that is gone
            else File.Delete(file);
        }
        foreach (Report r in reports) Console.WriteLine($"{r.File,-18} {r.Name,-20} {r.Registers,4} registers {r.SpillBytes,4} bytes spilled");
        foreach (string where in overwritten) Console.Error.WriteLine($"This overwrites a register that products on their way still read, wait for them first ({where}).");
        if (!check) return overwritten.Count > 0 ? 1 : 0;
        foreach (string file in stale) Console.Error.WriteLine($"{file} is not what these sources compile to, or of none of them; run the compiler without --check and commit what it writes.");
        foreach (Report r in reports.Where(r => r.SpillBytes > 0)) Console.Error.WriteLine($"{r.Name} spills {r.SpillBytes} bytes of registers.");
        return stale.Count > 0 || overwritten.Count > 0 || reports.Any(r => r.SpillBytes > 0) ? 1 : 0;

        void Put(string file, byte[] bytes)
        {
            if (!check) File.WriteAllBytes(file, bytes);
            else if (!File.Exists(file) || !File.ReadAllBytes(file).AsSpan().SequenceEqual(bytes)) stale.Add(file);
        }
    }

    /// <summary>SHA-256 over names and contents of all kernel sources, with one kind of line end.</summary>
    internal static string SourceHash(string kernels)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        IEnumerable<string> files = Directory.EnumerateFiles(kernels, "*.cu").Concat(Directory.EnumerateFiles(Path.Combine(kernels, "include"), "*.cuh"));
        foreach (string file in files.OrderBy(f => Path.GetFileName(f), StringComparer.Ordinal))
        {
            hash.AppendData(Encoding.UTF8.GetBytes(Path.GetFileName(file) + '\n'));
            hash.AppendData(Encoding.UTF8.GetBytes(File.ReadAllText(file).ReplaceLineEndings("\n")));
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private static string Folder()
    {
        for (DirectoryInfo? d = new(Environment.CurrentDirectory); d is not null; d = d.Parent)
            if (Directory.Exists(Path.Combine(d.FullName, "kernels", "include"))) return Path.Combine(d.FullName, "kernels");
        throw new InvalidOperationException("There is no folder kernels/include above the current one; run this inside the repository.");
    }

    /// <summary>What the assembler's verbose report says of each entry point.</summary>
    internal static IEnumerable<Report> Reports(string file, string log)
    {
        foreach (Match entry in Entry().Matches(log))
        {
            string part = entry.Groups["rest"].Value;
            yield return new(file, entry.Groups["name"].Value, Number(Registers(), part), Number(Spills(), part), Number(SharedBytes(), part));
        }
    }

    private static int Number(Regex pattern, string text) => pattern.Match(text) is { Success: true } m ? int.Parse(m.Groups[1].Value) : 0;

    private static byte[] Manifest(string hash, int version, List<Report> reports)
    {
        using var stream = new MemoryStream();
        using (var json = new Utf8JsonWriter(stream, new() { Indented = true, NewLine = "\n" }))
        {
            json.WriteStartObject();
            json.WriteString("sourceHash", hash);
            json.WriteNumber("compiler", version);
            json.WriteStartArray("kernels");
            foreach (Report r in reports)
            {
                json.WriteStartObject();
                json.WriteString("file", r.File);
                json.WriteString("name", r.Name);
                json.WriteNumber("registers", r.Registers);
                json.WriteNumber("spillBytes", r.SpillBytes);
                json.WriteNumber("staticSharedBytes", r.SharedBytes);
                json.WriteEndObject();
            }
            json.WriteEndArray();
            json.WriteEndObject();
        }
        return stream.ToArray();
    }

    internal readonly record struct Report(string File, string Name, int Registers, int SpillBytes, int SharedBytes);

    [GeneratedRegex(@"Compiling entry function '(?<name>\w+)'(?<rest>.*?)(?=Compiling entry function|\z)", RegexOptions.Singleline)]
    private static partial Regex Entry();

    [GeneratedRegex(@"Used (\d+) registers")]
    private static partial Regex Registers();

    [GeneratedRegex(@"(\d+) bytes spill stores")]
    private static partial Regex Spills();

    [GeneratedRegex(@"(\d+) bytes smem")]
    private static partial Regex SharedBytes();

    [GeneratedRegex(@".*C75\d\d.*")]
    private static partial Regex Serialized();
}
