"""Scripts that print the figures of docs/benchmarks.md, with the machine and the command."""
