"""The paced packet generator and sink: a DPDK program of our own, and what drives it."""
