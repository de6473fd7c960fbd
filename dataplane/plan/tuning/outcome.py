"""What goes into the tuning plan beside the topology, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dataplane.model.tuning import Tuning


class Access(StrEnum):
    """How OVS reaches a NIC."""

    VFIO = "vfio"
    BIFURCATED = "bifurcated"
    AF_XDP = "af_xdp"


@dataclass(frozen=True, slots=True)
class WantedPort:
    """A NIC that is to be a port of OVS.

    `name`: the port in `Tuning.ports`; `device`: the netdev's name or the PCI address. `queues`
    None: as many as the plan says; `first_queue`: where its share of the NIC's queues begins.
    """

    name: str
    device: str
    access: Access
    queues: int | None = None
    first_queue: int = 0
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class Wants:
    """What the node is for.

    `guest_mtus` and `guest_ports` [vhost-user ports per NUMA node] are what is expected of VMs.
    `hugepages`: page size [KiB] and count that are made before vswitchd starts. `pmd_cores`:
    physical cores per node that has NICs, None: by their speed. `flows`: expected per PMD thread,
    None: unknown. `saves_power`: idle PMD threads sleep.
    """

    ports: tuple[WantedPort, ...] = ()
    guest_mtus: tuple[int, ...] = (1500,)
    guest_ports: int = 8
    hugepages: tuple[int, int] | None = None
    pmd_cores: int | None = None
    flows: int | None = None
    saves_power: bool = False


@dataclass(frozen=True, slots=True)
class PortPin:
    """What a person fixes of one port; None: computed. `affinity` is text: "0:3,1:7"."""

    rx_queues: int | None = None
    descriptors_rx: int | None = None
    descriptors_tx: int | None = None
    affinity: str | None = None


@dataclass(frozen=True, slots=True)
class Pins:
    """What a person fixes; None and absent: computed.

    `settings` are other fields of `Tuning` by name, such as {"pmd_sleep_us": 50}.
    """

    lcore: frozenset[int] | None = None
    pmd: frozenset[int] | None = None
    socket_mem_mib: Mapping[int, int] | None = None
    ports: Mapping[str, PortPin] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """One value, the rule that led to it and where the rule comes from."""

    key: str
    value: str
    rule: str
    source: str


@dataclass(frozen=True, slots=True)
class Lack:
    """What the machine lacks for this plan. `fix`: lines to copy. `grave`: it will not forward."""

    name: str
    what: str
    why: str
    fix: tuple[str, ...]
    grave: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a person asked for and cannot be had."""

    key: str
    what: str
    why: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.what}; {self.why}; {self.next_step}"


class Refused(ValueError):
    """There is no plan: pins that cannot work, or a machine without a core for a PMD thread."""

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        self.refusals = refusals
        super().__init__("\n".join(map(str, refusals)))


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """The values, why each is what it is, and what is missing on the machine.

    `pinned`: the keys that a person fixed.
    """

    tuning: Tuning
    decisions: tuple[Decision, ...]
    warnings: tuple[Lack, ...]
    pinned: frozenset[str] = frozenset()


PINNED = "pinned"
"""The source of a decision that a person made."""
