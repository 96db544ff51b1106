using System.Reflection;
using System.Runtime.CompilerServices;
using System.Text;

namespace MoeSharp.Tests;

/// <summary>Writes the public surface of an assembly as text: one line per type, one indented line per member, in a fixed order.</summary>
internal static class PublicApi
{
    private const BindingFlags Declared = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;
    private static readonly NullabilityInfoContext s_nullability = new();

    private static readonly Dictionary<Type, string> s_keywords = new()
    {
        [typeof(void)] = "void",
        [typeof(bool)] = "bool",
        [typeof(byte)] = "byte",
        [typeof(sbyte)] = "sbyte",
        [typeof(short)] = "short",
        [typeof(ushort)] = "ushort",
        [typeof(int)] = "int",
        [typeof(uint)] = "uint",
        [typeof(long)] = "long",
        [typeof(ulong)] = "ulong",
        [typeof(nint)] = "nint",
        [typeof(nuint)] = "nuint",
        [typeof(float)] = "float",
        [typeof(double)] = "double",
        [typeof(string)] = "string",
        [typeof(object)] = "object",
    };

    public static string Render(Assembly assembly)
    {
        var text = new StringBuilder();
        foreach (Type type in assembly.GetExportedTypes().OrderBy(t => t.FullName, StringComparer.Ordinal))
        {
            text.Append(Head(type)).Append('\n');
            foreach (string member in Members(type).Order(StringComparer.Ordinal)) text.Append("    ").Append(member).Append('\n');
        }
        return text.ToString();
    }

    private static string Head(Type type)
    {
        string kind = type.IsEnum ? "enum" : type.IsInterface ? "interface" : type.IsByRefLike ? "ref struct" : type.IsValueType ? "struct"
            : type.IsAbstract && type.IsSealed ? "static class" : type.IsAbstract ? "abstract class" : type.IsSealed ? "sealed class" : "class";
        IEnumerable<Type> bases = type.IsEnum ? [Enum.GetUnderlyingType(type)]
            : (type.BaseType is { } parent && parent != typeof(object) && parent != typeof(ValueType) ? [parent] : Type.EmptyTypes)
              .Concat(type.GetInterfaces().Where(i => i.IsPublic).OrderBy(i => i.FullName, StringComparer.Ordinal));
        string list = string.Join(", ", bases.Select(Name));
        return $"{kind} {Name(type)}{(list.Length > 0 ? " : " + list : "")}";
    }

    private static IEnumerable<string> Members(Type type)
    {
        if (type.IsEnum) return Enum.GetNames(type).Select(n => $"{n} = {Convert.ChangeType(Enum.Parse(type, n), Enum.GetUnderlyingType(type))}");
        return type.GetFields(Declared).Where(f => Visible(f.Attributes) && !Generated(f)).Select(Field)
            .Concat(type.GetConstructors(Declared).Where(Visible).Select(c => $"{Name(type)}({Parameters(c)})"))
            .Concat(type.GetProperties(Declared).Where(p => p.GetAccessors(true).Any(Visible) && !Generated(p) && p.Name != "EqualityContract").Select(Property))
            .Concat(type.GetMethods(Declared).Where(m => Visible(m) && !Generated(m) && !Accessor(m)).Select(Method));
    }

    private static string Field(FieldInfo f) =>
        f.IsLiteral ? $"const {Name(f.FieldType)} {f.Name} = {f.GetRawConstantValue()}" : $"{(f.IsStatic ? "static " : "")}{(f.IsInitOnly ? "readonly " : "")}{Name(f.FieldType)} {f.Name}";

    private static string Property(PropertyInfo p)
    {
        bool required = p.IsDefined(typeof(RequiredMemberAttribute)), isStatic = p.GetAccessors(true)[0].IsStatic;
        bool init = p.SetMethod?.ReturnParameter.GetRequiredCustomModifiers().Contains(typeof(IsExternalInit)) == true;
        string set = p.SetMethod is null || !Visible(p.SetMethod) ? "" : init ? " init;" : " set;";
        string get = p.GetMethod is not null && Visible(p.GetMethod) ? " get;" : "";
        return $"{(isStatic ? "static " : "")}{(required ? "required " : "")}{Name(p.PropertyType)}{Mark(p.PropertyType, () => s_nullability.Create(p).ReadState)} {p.Name} {{{get}{set} }}";
    }

    private static string Method(MethodInfo m)
    {
        string generic = m.IsGenericMethod ? $"<{string.Join(", ", m.GetGenericArguments().Select(a => a.Name))}>" : "";
        return $"{(m.IsStatic ? "static " : "")}{Name(m.ReturnType)}{Mark(m.ReturnType, () => s_nullability.Create(m.ReturnParameter).ReadState)} {m.Name}{generic}({Parameters(m)})";
    }

    private static string Parameters(MethodBase m) => string.Join(", ", m.GetParameters().Select(p =>
    {
        string by = p.IsOut ? "out " : p.IsIn ? "in " : p.ParameterType.IsByRef ? "ref " : "";
        Type type = p.ParameterType.IsByRef ? p.ParameterType.GetElementType()! : p.ParameterType;
        string optional = p.HasDefaultValue ? $" = {p.DefaultValue ?? (type.IsValueType && Nullable.GetUnderlyingType(type) is null ? "default" : "null")}" : "";
        return $"{by}{Name(type)}{Mark(type, () => s_nullability.Create(p).ReadState)} {p.Name}{optional}";
    }));

    /// <summary>"?" after a reference type that may be null.</summary>
    private static string Mark(Type type, Func<NullabilityState> state) =>
        type.IsValueType || type.IsPointer || type.IsByRef || type.IsGenericParameter || state() != NullabilityState.Nullable ? "" : "?";

    private static string Name(Type type)
    {
        if (s_keywords.TryGetValue(type, out string? keyword)) return keyword;
        if (Nullable.GetUnderlyingType(type) is { } value) return Name(value) + "?";
        if (type.IsArray) return Name(type.GetElementType()!) + "[]";
        if (type.IsPointer) return Name(type.GetElementType()!) + "*";
        if (type.IsByRef) return "ref " + Name(type.GetElementType()!);
        string name = type.IsNested && !type.IsGenericParameter ? $"{Name(type.DeclaringType!)}.{type.Name}" : type.Name;
        return !type.IsGenericType ? name : $"{name.Split('`')[0]}<{string.Join(", ", type.GetGenericArguments().Select(Name))}>";
    }

    private static bool Accessor(MethodInfo m) => m.IsSpecialName && !m.Name.StartsWith("op_", StringComparison.Ordinal);

    /// <summary>What the compiler writes for records tells nothing that the word would not.</summary>
    private static bool Generated(MemberInfo m) => m.IsDefined(typeof(CompilerGeneratedAttribute)) && m is not PropertyInfo || m.Name.StartsWith('<');

    private static bool Visible(FieldAttributes f) => (f & FieldAttributes.FieldAccessMask) is FieldAttributes.Public or FieldAttributes.Family or FieldAttributes.FamORAssem;

    private static bool Visible(MethodBase m) => m.IsPublic || m.IsFamily || m.IsFamilyOrAssembly;
}
