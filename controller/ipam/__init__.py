"""Addresses for workloads: which subnet gives which address and MAC to whom. No I/O."""
