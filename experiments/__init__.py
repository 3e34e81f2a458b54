"""The console command, one file per subcommand."""
