using System.Buffers;
using System.Text;
using System.Text.Json;
using Spectre.Console;
using Spectre.Console.Rendering;

namespace MoeSharp.Cli;

/// <summary>Where a verb writes: its answer to stdout, its progress to stderr. Escape codes only reach terminals.</summary>
internal sealed class Terminal
{
    /// <summary>Columns assumed where there is no terminal.</summary>
    public const int PlainWidth = 100;

    private readonly TextWriter _output, _error;
    private readonly IAnsiConsole? _answer; // null where stdout is not a terminal
    private readonly IAnsiConsole _progress;
    private readonly bool _isWatched;

    /// <param name="output">Takes the answer.</param>
    /// <param name="error">Takes the progress.</param>
    /// <param name="json">The answer is one JSON object.</param>
    /// <param name="isWatched">Whether somebody watches <paramref name="error"/>; null asks the console.</param>
    public Terminal(TextWriter output, TextWriter error, bool json, bool? isWatched = null)
    {
        _output = output;
        Json = json;
        if (ReferenceEquals(output, Console.Out) && !Console.IsOutputRedirected) _answer = Open(output, isTerminal: true);
        _isWatched = isWatched ?? (ReferenceEquals(error, Console.Error) && !Console.IsErrorRedirected);
        _progress = Open(error, _isWatched);
        _error = error;
    }

    /// <summary>The answer is one JSON object.</summary>
    public bool Json { get; }

    /// <summary>Part of the answer for a human reader.</summary>
    public void Write(IRenderable part)
    {
        if (_answer is not null)
        {
            _answer.Write(part);
            return;
        }
        var text = new StringWriter();
        Open(text, isTerminal: false).Write(part);
        foreach (string line in text.ToString().Split('\n')[..^1]) _output.WriteLine(line.TrimEnd());
    }

    /// <summary>A line of the answer; no markup.</summary>
    public void WriteLine(string line = "") => _output.WriteLine(line);

    /// <summary>Names and values in two columns.</summary>
    public void WriteFacts(params IEnumerable<(string Name, string Value)> facts)
    {
        Grid grid = new Grid().AddColumn(new GridColumn().NoWrap().PadRight(3)).AddColumn();
        foreach ((string name, string value) in facts) grid.AddRow(new Text(name), new Text(value));
        Write(grid);
    }

    /// <summary>The whole answer as one JSON object.</summary>
    public void WriteJson(Action<Utf8JsonWriter> members)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var writer = new Utf8JsonWriter(buffer, new JsonWriterOptions { Indented = true }))
        {
            writer.WriteStartObject();
            members(writer);
            writer.WriteEndObject();
        }
        _output.WriteLine(Encoding.UTF8.GetString(buffer.WrittenSpan));
    }

    /// <summary>
    /// Work in steps, shown as a bar where somebody watches and as one line elsewhere. <paramref name="work"/> says what begins and how many steps lie
    /// behind; the bar is only drawn then, never by a timer, so that it takes no processor time from what is being measured.
    /// </summary>
    public void Track(string title, int steps, Action<Action<string, double>> work)
    {
        if (!_isWatched)
        {
            _error.WriteLine($"{title} ...");
            work((_, _) => { });
            return;
        }
        Bar(title, steps, work);
    }

    /// <summary>Loading, shown as a bar where somebody watches; elsewhere nothing is written.</summary>
    public T Load<T>(string title, Func<IProgress<LoadProgress>?, T> load)
    {
        if (!_isWatched) return load(null);
        T loaded = default!;
        Bar(title, 1, step => loaded = load(new LoadSteps(step)));
        return loaded;
    }

    private void Bar(string title, int steps, Action<Action<string, double>> work) =>
        _progress.Progress().AutoRefresh(false).AutoClear(true).HideCompleted(true)
            .Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn(), new PercentageColumn())
            .Start(bar =>
            {
                ProgressTask task = bar.AddTask(Markup.Escape(title), maxValue: steps);
                work((what, done) =>
                {
                    lock (task)
                    {
                        task.Description = Markup.Escape($"{title}: {what}");
                        task.Value = done;
                        bar.Refresh();
                    }
                });
            });

    private static IAnsiConsole Open(TextWriter writer, bool isTerminal)
    {
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(writer),
            Ansi = isTerminal ? AnsiSupport.Detect : AnsiSupport.No,
            ColorSystem = isTerminal ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
            Interactive = isTerminal ? InteractionSupport.Detect : InteractionSupport.No,
            Enrichment = new ProfileEnrichment { UseDefaultEnrichers = false },
        });
        if (!isTerminal) console.Profile.Width = PlainWidth;
        return console;
    }
}
