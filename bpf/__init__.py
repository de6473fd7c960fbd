"""The eBPF programs, compiled ahead of time, and the Python side of their ABI."""
