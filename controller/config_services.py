"""The table [services] of a node's TOML file: what the service fast path is told."""

from __future__ import annotations

import re

from controller import config_values as values
from controller.config_reader import TableReader
from dataplane.model.config import ServicesConfig

MIN_CAPACITY = 64
MAX_FLOWS = 1 << 22
"""Of each family; a record has 64 bytes (IPv6: 128), and there are two of them for each flow."""

MAX_SERVICES = 1 << 18
MAX_BACKENDS = 1 << 22
MAX_METRICS = 500
"""Service ports with series of their own: ten each, and a scrape has to stay cheap."""

_ZONE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_CGROUP = re.compile(r"(/(?!\.{1,2}(/|$))[^/\0\s]+)+")


def services_config(root: TableReader) -> ServicesConfig:
    """The table's values; faults are in its notes, stand-ins in their places."""
    table = root.table("services")
    defaults = ServicesConfig()
    found = ServicesConfig(
        zone=table.text(
            "zone",
            default=defaults.zone,
            example="zone-a",
            pattern=_ZONE,
            rule="it is a label's value: up to 63 letters, digits, dots, dashes, underscores",
        ),
        flows=_capacity(table, "flows", MAX_FLOWS, defaults.flows),
        services=_capacity(table, "services", MAX_SERVICES, defaults.services),
        backends=_capacity(table, "backends", MAX_BACKENDS, defaults.backends),
        nodeport_addresses=values.networks(table, "nodeport_addresses"),
        connect=_cgroups(table, "connect"),
        announce=table.boolean("announce", default=defaults.announce),
        poll_thread=table.boolean("poll_thread", default=defaults.poll_thread),
        metrics=table.integer("metrics", 0, MAX_METRICS, default=defaults.metrics),
    )
    table.finish()
    return found


def _capacity(table: TableReader, key: str, most: int, default: int) -> int:
    """A number of entries, rounded up to a power of two: what the programs' masks take."""
    return 1 << (table.integer(key, MIN_CAPACITY, most, default=default) - 1).bit_length()


def _cgroups(table: TableReader, key: str) -> tuple[str, ...]:
    example = '["/sys/fs/cgroup"]'
    found: list[str] = []
    for index, text in table.items(key, str, default=[], example=example).items():
        near = next((one for one in found if _covers(one, text) or _covers(text, one)), None)
        if not _CGROUP.fullmatch(text):
            why = "it has to be a cgroup's absolute path, without blanks, . or .."
            table.fault_at(key, index, why, f"write {key} = {example}")
        elif near is not None:
            why = "it is there already" if near == text else f"one of it and {near} has the other"
            table.fault_at(key, index, why, "name the upper one, once")
        found.append(text)
    return tuple(found)


def _covers(upper: str, lower: str) -> bool:
    return f"{lower}/".startswith(f"{upper}/")
