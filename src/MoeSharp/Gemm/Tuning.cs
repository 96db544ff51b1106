namespace MoeSharp;

/// <summary>For measurements on this branch only: numbers from the environment.</summary>
internal static class Tuning
{
    public static int Number(string name, int otherwise) => int.TryParse(Environment.GetEnvironmentVariable(name), out int number) ? number : otherwise;
}
