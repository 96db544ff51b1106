return MoeSharp.Cli.Tool.Run(args, Console.Out, Console.Error);
