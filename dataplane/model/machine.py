"""What a machine has, as far as a configuration can ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NicFacts:
    """A network device in the node's namespace.

    `kind` is rtnetlink's, "" for hardware. `peer` is the other end of a veth, "" if there is none
    or it is in another namespace. `xdp_program` is the attached program's id, 0 for none. `master`
    is what takes its frames from it: a bridge, a bond or a kernel datapath of OVS; "" for nothing.
    `pci` is its PCI address, "" for none.
    """

    kind: str
    mtu: int
    rx_queues: int
    tx_queues: int
    peer: str = ""
    xdp_program: int = 0
    master: str = ""
    pci: str = ""


@dataclass(frozen=True, slots=True)
class HugepagePool:
    """The kernel's pool of hugepages of one size, in pages."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One machine at one moment.

    `hugepages` maps a size in KiB to its pool. `available_kib` is what the kernel could still
    give away (proc(5), MemAvailable); pages that are in a pool already are not part of it.
    """

    cpus: frozenset[int]
    numa_nodes: int
    memory_kib: int
    available_kib: int
    hugepages: Mapping[int, HugepagePool]
    nics: Mapping[str, NicFacts]
    pci_devices: frozenset[str]
