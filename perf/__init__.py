"""Benchmarks: what a node can forward, in figures that another machine can check."""
