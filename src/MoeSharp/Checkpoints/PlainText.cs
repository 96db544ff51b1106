using System.Globalization;
using System.Text;

namespace MoeSharp;

/// <summary>Text that files brought along, fit for one line of a terminal: names and values in a checkpoint are anybody's.</summary>
internal static class PlainText
{
    private const int Longest = 2000;

    /// <summary>Whether a control character is among these: no tensor and no file needs one in its name.</summary>
    public static bool HasControls(ReadOnlySpan<char> text) =>
        text.IndexOfAnyInRange('\0', '\u001F') >= 0 || text.IndexOfAnyInRange('\u007F', '\u009F') >= 0;

    /// <summary>Whether a character draws nothing itself, but may move, hide or break what is drawn.</summary>
    public static bool IsHidden(char c) => char.GetUnicodeCategory(c)
        is UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator;

    /// <summary>The same with hidden characters spelled out and, where it is very long, without its middle.</summary>
    public static string Of(string text)
    {
        if (text.Length > Longest) text = $"{text[..(Longest / 2)]} ... {text[^(Longest / 2)..]}";
        if (!text.Any(IsHidden)) return text;
        var plain = new StringBuilder();
        foreach (char c in text)
        {
            if (IsHidden(c)) plain.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:X4}");
            else plain.Append(c);
        }
        return plain.ToString();
    }
}
