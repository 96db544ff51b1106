using System.Runtime.InteropServices;
using System.Text;

namespace MoeSharp.Kernels;

/// <summary>NVIDIA's run-time compiler, loaded from a path: CUDA C++ in, a cubin for Hopper and the assembler's report out.</summary>
internal sealed unsafe class Nvrtc(string library)
{
    private readonly nint _library = Load(library);

    /// <summary>1000 major + 10 minor.</summary>
    internal int Version
    {
        get
        {
            int major, minor;
            Check(((delegate* unmanaged<int*, int*, int>)Export("nvrtcVersion"))(&major, &minor), "nvrtcVersion");
            return 1000 * major + 10 * minor;
        }
    }

    /// <summary>Compiles one file with more options than the usual; includes are looked up beside it.</summary>
    internal (byte[] Cubin, string Log) Compile(string path, params string[] more) => Compile(path, "nvrtcGetCUBIN", ["-arch=sm_90a", "--ptxas-options=-v", .. more]);

    /// <summary>The assembly that it makes of the file before registers are given out.</summary>
    internal string Ptx(string path, params string[] more) => Encoding.UTF8.GetString(Compile(path, "nvrtcGetPTX", ["-arch=compute_90a", .. more]).Bytes);

    private (byte[] Bytes, string Log) Compile(string path, string what, string[] more)
    {
        nint program;
        fixed (byte* source = Text(File.ReadAllText(path)), name = Text(Path.GetFileName(path)))
            Check(((delegate* unmanaged<nint*, byte*, byte*, int, void*, void*, int>)Export("nvrtcCreateProgram"))(&program, source, name, 0, null, null), "nvrtcCreateProgram");
        try
        {
            string[] options = ["-std=c++17", "-I" + Path.GetDirectoryName(Path.GetFullPath(path)), .. more];
            nint* pointers = stackalloc nint[options.Length];
            for (int i = 0; i < options.Length; i++) pointers[i] = Marshal.StringToCoTaskMemUTF8(options[i]);
            int result = ((delegate* unmanaged<nint, int, nint*, int>)Export("nvrtcCompileProgram"))(program, options.Length, pointers);
            for (int i = 0; i < options.Length; i++) Marshal.FreeCoTaskMem(pointers[i]);
            string log = Encoding.UTF8.GetString(Read(program, "nvrtcGetProgramLog")).TrimEnd('\0');
            if (result != 0) throw new InvalidOperationException($"{path} does not compile:\n{log}");
            return (Read(program, what), log);
        }
        finally
        {
            _ = ((delegate* unmanaged<nint*, int>)Export("nvrtcDestroyProgram"))(&program);
        }
    }

    private byte[] Read(nint program, string what)
    {
        nuint size;
        Check(((delegate* unmanaged<nint, nuint*, int>)Export(what + "Size"))(program, &size), what);
        var bytes = new byte[size];
        fixed (byte* target = bytes) Check(((delegate* unmanaged<nint, byte*, int>)Export(what))(program, target), what);
        return bytes;
    }

    /// <summary>The library opens its built-ins by name only, so they are opened first, from the same folder.</summary>
    private static nint Load(string path)
    {
        string folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        foreach (string builtins in Directory.EnumerateFiles(folder, "libnvrtc-builtins.so.*")) NativeLibrary.Load(builtins);
        return NativeLibrary.Load(path);
    }

    private nint Export(string name) => NativeLibrary.GetExport(_library, name);

    private static byte[] Text(string s) => Encoding.UTF8.GetBytes(s + '\0');

    private static void Check(int result, string what)
    {
        if (result != 0) throw new InvalidOperationException($"{what} failed with code {result}.");
    }
}
