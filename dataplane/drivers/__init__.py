"""Drivers: the only modules that touch OVSDB, OpenFlow, libbpf, netlink and sysfs."""
