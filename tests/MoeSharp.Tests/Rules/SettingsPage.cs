using System.CommandLine;
using System.Globalization;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using MoeSharp.Cli;

namespace MoeSharp.Tests;

/// <summary>docs/settings.md with its tables as the code has them: names and defaults from the types, meanings from their XML documentation, options from the tool.</summary>
internal static partial class SettingsPage
{
    private static readonly Type[] s_records = [typeof(MoeLayerOptions), typeof(LayerSelection), typeof(ExpertsOptions), typeof(Activation), typeof(RouterOptions)];
    private static readonly Type[] s_backends = [typeof(CpuBackend), typeof(CudaBackend)];

    private static readonly Dictionary<string, XElement> s_documentation = new[] { typeof(FusedExperts), typeof(CudaBackend) }
        .SelectMany(t => XDocument.Load(Path.ChangeExtension(t.Assembly.Location, ".xml")).Descendants("member")).ToDictionary(m => m.Attribute("name")!.Value);

    /// <summary>The page with the text between "table" and "end" marks written anew.</summary>
    public static string Render(string page) => Tables().Replace(page, m => $"<!-- table: {m.Groups[1].Value} -->\n{Table(m.Groups[1].Value)}<!-- end -->");

    /// <summary>What must have a table.</summary>
    public static IEnumerable<string> Sections => s_records.Concat(s_backends).Select(t => t.Name).Append("tool");

    private static string Table(string section)
    {
        if (section == "tool") return Tool();
        if (s_records.FirstOrDefault(t => t.Name == section) is { } record) return Record(record);
        return s_backends.FirstOrDefault(t => t.Name == section) is { } backend ? Constructor(backend) : throw new InvalidOperationException($"docs/settings.md asks for a table of {section}.");
    }

    private static string Record(Type record)
    {
        object instance = Activator.CreateInstance(record, [.. Positional(record).Select(p => p.HasDefaultValue ? p.DefaultValue : Activator.CreateInstance(p.ParameterType))])!;
        var table = new StringBuilder("| name | default | meaning |\n|---|---|---|\n");
        foreach (PropertyInfo p in record.GetProperties(BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly).Where(p => p.SetMethod is not null).OrderBy(p => p.MetadataToken))
        {
            bool required = p.IsDefined(typeof(RequiredMemberAttribute)) || Positional(record).Any(q => q.Name == p.Name && !q.HasDefaultValue);
            XElement? meaning = Documentation($"P:{record.FullName}.{p.Name}")?.Element("summary") ?? Parameter(Documentation($"T:{record.FullName}"), p.Name);
            table.Append($"| `{p.Name}` | {(required ? "required" : Value(p.GetValue(instance)))} | {Text(meaning, $"{record.Name}.{p.Name}")} |\n");
        }
        return table.ToString();
    }

    private static ParameterInfo[] Positional(Type record) =>
        record.GetConstructors().MaxBy(c => c.GetParameters().Length)!.GetParameters();

    private static string Constructor(Type type)
    {
        ConstructorInfo constructor = Assert.Single(type.GetConstructors());
        string name = $"M:{type.FullName}.#ctor({string.Join(',', constructor.GetParameters().Select(p => Nullable.GetUnderlyingType(p.ParameterType) is { } v ? $"System.Nullable{{{v.FullName}}}" : p.ParameterType.FullName))})";
        var table = new StringBuilder("| argument | default | meaning |\n|---|---|---|\n");
        foreach (ParameterInfo p in constructor.GetParameters())
            table.Append($"| `{p.Name}` | {(p.HasDefaultValue ? Value(p.DefaultValue) : "required")} | {Text(Parameter(Documentation(name), p.Name!), $"{type.Name}({p.Name})")} |\n");
        return table.ToString();
    }

    private static string Tool()
    {
        var table = new StringBuilder("| verb | option | meaning |\n|---|---|---|\n");
        foreach (Verb verb in Cli.Tool.Root().Subcommands.OfType<Verb>())
            foreach (Option option in verb.Options.Where(o => !o.Hidden && o.Name is not ("--help" or "--version" or "--json")))
                table.Append($"| `{verb.Name}` | `{option.Name}` | {option.Description?.Replace("|", "\\|", StringComparison.Ordinal)}{(option.Required ? "; required" : "")} |\n");
        return table.ToString();
    }

    private static XElement? Documentation(string name) => s_documentation.GetValueOrDefault(name);

    private static XElement? Parameter(XElement? member, string name) => member?.Elements("param").FirstOrDefault(p => p.Attribute("name")!.Value == name);

    private static string Value(object? value) => value switch
    {
        null => "null",
        bool flag => flag ? "true" : "false",
        LayerSelection selection when selection == LayerSelection.All => "everything",
        Activation { Limit: null } activation => activation.Kind.ToString(),
        _ => Convert.ToString(value, CultureInfo.InvariantCulture)!,
    };

    /// <summary>Documentation as a cell: references become code, line breaks blanks.</summary>
    private static string Text(XElement? documentation, string of)
    {
        Assert.True(documentation is not null, $"{of} has no XML documentation.");
        string text = string.Concat(documentation.Nodes().Select(n => n switch
        {
            XElement { Name.LocalName: "see" or "paramref" } reference => $"`{(reference.Attribute("cref") ?? reference.Attribute("name"))!.Value.Split('.', ':')[^1]}`",
            XElement other => other.Value,
            _ => n.ToString(SaveOptions.DisableFormatting),
        }));
        return Blanks().Replace(System.Net.WebUtility.HtmlDecode(text), " ").Trim().TrimEnd('.').Replace("|", "\\|", StringComparison.Ordinal);
    }

    [GeneratedRegex(@"<!-- table: (\w+) -->\n(.*?)<!-- end -->", RegexOptions.Singleline)]
    private static partial Regex Tables();

    [GeneratedRegex(@"\s+")]
    private static partial Regex Blanks();
}
