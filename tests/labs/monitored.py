"""What daemons of ours ask OVN's databases for, for a benchmark that asks the same."""

from __future__ import annotations

from controller.ovn import nb, sb

NORTHBOUND, SOUTHBOUND = nb.DATABASE, sb.DATABASE
CENTRAL, NODE, PORTS = nb.TABLES, nb.NODE_TABLES, sb.TABLES
"""Tables and columns: of the cluster controller, of a node, and of both southbound."""
