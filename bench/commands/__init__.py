"""What the commands of `bench.cli` do, from a request to files, tables and an exit code."""
