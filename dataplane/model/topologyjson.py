"""The file of a topology: JSON with a schema number, checked as a whole.

Every fault is one line with the file and the place, so that a file made by hand is mended in one
go. Unknown fields, fields given twice and values of the wrong kind are faults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from dataplane.model.jsonobject import JsonObject, ObjectReader, shown
from dataplane.model.machine import HugepagePool
from dataplane.model.topology import (
    NO_NODE,
    Boot,
    Core,
    Guest,
    GuestPort,
    NicPort,
    NumaNode,
    Origin,
    OriginKind,
    Taken,
    Topology,
    cpu_ranges,
)

SCHEMA = 1
"""Raised when a field changes its meaning; files of other numbers are refused by name."""

MAX_NODES = 1024
MAX_MIB = 1 << 30


class TopologyFault(ValueError):
    """A file that is no topology; `faults` are all that is wrong with it."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(faults))


def topology_to_json(topology: Topology) -> str:
    """The text of a file; one line for each core, node, NIC and guest."""
    lines = [
        f'  "schema": {SCHEMA}',
        f'  "origin": {_dump({"kind": topology.origin.kind, "source": topology.origin.source})}',
        f'  "machine": {_dump(_machine(topology))}',
        f'  "nodes": {_list(_node(node) for node in topology.nodes)}',
        f'  "cores": {_list(_core(core) for core in topology.cores)}',
        f'  "nics": {_list(_nic(nic) for nic in topology.nics)}',
        f'  "guests": {_list(_guest(guest) for guest in topology.guests)}',
        f'  "taken": {_dump(_taken(topology.taken))}',
        f'  "boot": {_dump(_boot(topology.boot))}',
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list(values: Iterable[object]) -> str:
    lines = [f"    {_dump(value)}" for value in values]
    return "[\n" + ",\n".join(lines) + "\n  ]" if lines else "[]"


def _machine(topology: Topology) -> dict[str, object]:
    return {
        "arch": topology.arch,
        "vendor": topology.vendor,
        "model": topology.model,
        "offline": cpu_ranges(topology.offline),
        "page_sizes_kib": list(topology.page_sizes_kib),
        "mounts": dict(topology.mounts),
    }


def _node(node: NumaNode) -> dict[str, object]:
    return {
        "node": node.number,
        "memory_mib": node.memory_mib,
        "hugepages": {str(k): [v.total, v.free] for k, v in sorted(node.hugepages.items())},
        "distances": {str(k): v for k, v in sorted(node.distances.items())},
    }


def _core(core: Core) -> dict[str, object]:
    return {
        "cpus": cpu_ranges(core.cpus),
        "node": core.node,
        "package": core.package,
        "cache": core.cache,
    }


def _nic(nic: NicPort) -> dict[str, object]:
    return {
        "address": nic.address,
        "device": nic.device,
        "driver": nic.driver,
        "node": nic.node,
        "max_queues": nic.max_queues,
        "speed_mbps": nic.speed_mbps,
        "mtu": nic.mtu,
        "default_route": nic.has_default_route,
    }


def _guest(guest: Guest) -> dict[str, object]:
    return {
        "name": guest.name,
        "memory_mib": {str(k): v for k, v in sorted(guest.memory_mib.items())},
        "ports": [{"name": port.name, "queues": port.queues} for port in guest.ports],
    }


def _taken(taken: Taken) -> dict[str, object]:
    return {
        "host": cpu_ranges(taken.host),
        "kubelet": None if taken.kubelet is None else cpu_ranges(taken.kubelet),
        "exclusive": cpu_ranges(taken.exclusive),
        "allowed": None if taken.allowed is None else cpu_ranges(taken.allowed),
    }


def _boot(boot: Boot) -> dict[str, object]:
    return {
        "arguments": list(boot.arguments),
        "isolated": cpu_ranges(boot.isolated),
        "nohz_full": cpu_ranges(boot.nohz_full),
        "rcu_nocbs": cpu_ranges(boot.rcu_nocbs),
        "iommu_groups": boot.iommu_groups,
    }


def topology_from_json(text: str, filename: str) -> Topology:
    """The topology in a file's text.

    Raises:
        TopologyFault: everything that is wrong with it, each with the file and the place.
    """
    try:
        document = json.loads(text, object_pairs_hook=JsonObject)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TopologyFault([f"{filename}: this is not JSON: {reason}"]) from error
    faults: list[str] = []
    root = ObjectReader(faults, filename, document)
    schema = root.number("schema", 1, 1 << 31)
    if not faults and schema != SCHEMA:
        why = f"{filename}.schema: {schema} is not known here; this program reads {SCHEMA}"
        raise TopologyFault([why])
    topology = _read(root)
    root.finish()
    if not faults:
        faults.extend(f"{filename}: {fault}" for fault in _contradictions(topology))
    if faults:
        raise TopologyFault(faults)
    return topology


def _read(root: ObjectReader) -> Topology:
    machine, taken, boot, origin = (
        root.table("machine"), root.table("taken"), root.table("boot"), root.table("origin"),
    )  # fmt: skip
    kind = origin.text("kind")
    if kind and kind not in set(OriginKind):
        origin.fault("kind", f"{shown(kind)} is none of: {', '.join(OriginKind)}")
        kind = ""
    topology = Topology(
        origin=Origin(OriginKind(kind or "constructed"), origin.text("source")),
        arch=machine.text("arch"),
        vendor=machine.text("vendor", ""),
        model=machine.text("model", ""),
        nodes=tuple(sorted(root.each("nodes", _read_node), key=lambda node: node.number)),
        cores=tuple(sorted(root.each("cores", _read_core), key=lambda core: sorted(core.cpus))),
        offline=machine.cpus("offline"),
        nics=tuple(sorted(root.each("nics", _read_nic), key=lambda nic: (nic.address, nic.device))),
        guests=root.each("guests", _read_guest),
        taken=Taken(
            host=taken.cpus("host"),
            kubelet=taken.maybe_cpus("kubelet"),
            exclusive=taken.cpus("exclusive"),
            allowed=taken.maybe_cpus("allowed"),
        ),
        boot=Boot(
            arguments=boot.strings("arguments"),
            isolated=boot.cpus("isolated"),
            nohz_full=boot.cpus("nohz_full"),
            rcu_nocbs=boot.cpus("rcu_nocbs"),
            iommu_groups=boot.number("iommu_groups", 0, 1 << 20, 0),
        ),
        page_sizes_kib=machine.numbers("page_sizes_kib", 1 << 26),
        mounts=_read_mounts(machine.table("mounts")),
    )
    for reader in (machine, taken, boot, origin):
        reader.finish()
    return topology


def _read_mounts(table: ObjectReader) -> dict[str, int]:
    return {path: table.number(path, 1, 1 << 26) for path in table.names()}


def _natural(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_MIB else None


def _pool(value: object) -> HugepagePool | None:
    if isinstance(value, list) and len(value) == 2:
        total, free = _natural(value[0]), _natural(value[1])
        if total is not None and free is not None and free <= total:
            return HugepagePool(total, free)
    return None


def _read_node(reader: ObjectReader) -> NumaNode:
    return NumaNode(
        number=reader.number("node", 0, MAX_NODES),
        memory_mib=reader.number("memory_mib", 0, MAX_MIB),
        hugepages=reader.by_number("hugepages", _pool),
        distances=reader.by_number("distances", _natural),
    )


def _read_core(reader: ObjectReader) -> Core:
    cpus = reader.cpus("cpus", None)
    if not cpus:
        reader.fault("cpus", "a core has at least one CPU")
    return Core(
        cpus=cpus,
        node=reader.number("node", 0, MAX_NODES),
        package=reader.number("package", 0, 1 << 16, 0),
        cache=reader.number("cache", 0, 1 << 16, 0),
    )


def _read_nic(reader: ObjectReader) -> NicPort:
    nic = NicPort(
        address=reader.text("address", ""),
        device=reader.text("device", ""),
        driver=reader.text("driver", ""),
        node=reader.number("node", NO_NODE, MAX_NODES, NO_NODE),
        max_queues=reader.number("max_queues", 1, 65535, 1),
        speed_mbps=reader.number("speed_mbps", 0, 10_000_000, 0),
        mtu=reader.number("mtu", 68, 65535, 1500),
        has_default_route=reader.flag("default_route"),
    )
    if not nic.name:
        reader.fault("device", "a NIC has a device name or a PCI address")
    return nic


def _read_guest(reader: ObjectReader) -> Guest:
    return Guest(
        name=reader.text("name"),
        memory_mib=reader.by_number("memory_mib", _natural),
        ports=reader.each(
            "ports", lambda port: GuestPort(port.text("name"), port.number("queues", 1, 1024, 1))
        ),
    )


def _contradictions(topology: Topology) -> list[str]:
    """What each field allows and all of them together do not."""
    faults = []
    numbers = [node.number for node in topology.nodes]
    if not numbers or not topology.cores:
        faults.append("a machine has at least one node and one core")
    faults += [
        f"node {n} is there twice" for n in sorted({n for n in numbers if numbers.count(n) > 1})
    ]
    seen: set[int] = set()
    for core in topology.cores:
        name = cpu_ranges(core.cpus)
        if both := core.cpus & (seen | topology.offline):
            faults.append(f"CPU {cpu_ranges(both)} of core {name} is on another core, or offline")
        if core.node not in numbers:
            faults.append(f"core {name} is on node {core.node}, which is not among the nodes")
        seen |= core.cpus
    names = [name for nic in topology.nics for name in {nic.device, nic.address} if name]
    faults += [
        f"NIC {shown(name)} is there twice"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    faults += [
        f"NIC {nic.name} is on node {nic.node}, which is not among the nodes"
        for nic in topology.nics
        if nic.node != NO_NODE and nic.node not in numbers
    ]
    faults += [
        f"guest {shown(guest.name)} has memory on node {node}, which is not among the nodes"
        for guest in topology.guests
        for node in sorted(guest.memory_mib)
        if node not in numbers
    ]
    return faults
