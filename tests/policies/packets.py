"""A small cluster in a packet lab: its pods as stations, objects written, verdicts of packets."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec

from controller.kinds.securitygroup import SECURITY_GROUP, SECURITY_GROUPS
from controller.kube.structs import Custom, Meta
from controller.network.adminpolicies import UNITS as ADMIN_UNITS
from controller.network.facts import NODES, NetNode
from controller.network.facts import PODS as PODS_KIND
from controller.network.policies import UNITS
from controller.network.policynodes import UNITS as NODE_UNITS
from controller.network.rows import Row, RowKey
from controller.network.security_groups import UNITS as GROUP_UNITS
from controller.network.settings import SETTINGS, NetSettings
from controller.policy.parse import network_policy
from dataplane.model.addr import Protocol
from tests.labs.factview import whole
from tests.labs.ovnsandbox import OvnSandbox
from tests.labs.packetlab import PacketLab, Station
from tests.labs.packets import Packet
from tests.policies.adminfacts import facts_of_admins
from tests.policies.evaluate import End
from tests.policies.evaluate_admin import Tiers, allowed
from tests.policies.facts import facts_of
from tests.policies.whole import Namespace, Pod

GATEWAYS = {
    "one": ("10.1.0.1/24", "fd00:1::1/64"),
    "two": ("10.2.0.1/24", "fd00:2::1/64"),
}
SPACES = {
    "blue": {"team": "one", "app": "a", "kubernetes.io/metadata.name": "blue"},
    "red": {"team": "two", "app": "b", "kubernetes.io/metadata.name": "red"},
    "green": {"team": "two", "tier": "a", "kubernetes.io/metadata.name": "green"},
}
WEB = {("TCP", "web"): 8080, ("UDP", "dns"): 53}
OTHER_WEB = {("TCP", "web"): 8081}
CAST: tuple[tuple[str, str, str, dict[str, str], dict[tuple[str, str], int]], ...] = (
    ("blue", "front", "one", {"app": "a"}, {}),
    ("blue", "back", "one", {"app": "b"}, WEB),
    ("blue", "plain", "two", {}, {}),
    ("red", "front", "two", {"app": "a", "tier": "a"}, {}),
    ("red", "back", "one", {"app": "b"}, OTHER_WEB),
    ("green", "back", "two", {"app": "b", "tier": "a"}, WEB),
)
"""Namespace, name, switch, labels, names of ports."""


def _addresses(at: int, switch: str) -> tuple[str, str]:
    net = 1 if switch == "one" else 2
    return f"10.{net}.0.{at + 11}/24", f"fd00:{net}::{at + 11:x}/64"


STATIONS = tuple(
    Station(f"{name}.{space}", switch, f"0a:00:00:00:01:{at:02x}", _addresses(at, switch))
    for at, (space, name, switch, _, _) in enumerate(CAST)
)
PODS = tuple(
    Pod(
        space, name, STATIONS[at].port,
        tuple(ip_interface(text).ip for text in STATIONS[at].addresses), labels,
        {(Protocol[p], n): number for (p, n), number in named.items()},
    )
    for at, (space, name, _, labels, named) in enumerate(CAST)
)  # fmt: skip
NODES_THERE = (NetNode("n0"), NetNode("n1"))
"""The first pod of the cast is on n0, the second on n1, and so on."""

NAMESPACES = tuple(Namespace(name, labels) for name, labels in SPACES.items())


def end(at: int, version: int) -> End:
    """A pod, as the evaluation knows it, by its address of a family."""
    space, name, _, labels, named = CAST[at]
    return End(STATIONS[at].address(version), space, name, labels, named)


@dataclass(frozen=True, slots=True)
class Probe:
    """A new connection. `source`, `target`: places in the cast."""

    source: int
    target: int
    version: int
    protocol: str
    port: int


@dataclass
class Trial:
    """Sends probes and their answers through a lab; each has a source port of its own."""

    lab: PacketLab
    _number: int = 0

    def judged(self, probes: Sequence[Probe]) -> list[tuple[bool, bool]]:
        """Of each probe whether it came out at its target, and if so whether its answer came back.

        One direction of a pair at a time: the userspace connection tracking of OVS 3.1 knows SCTP
        by addresses alone, and takes a new association for the answer to one the other way round.
        """
        verdicts: dict[int, tuple[bool, bool]] = {}
        for up in (True, False):
            self.lab.forget()
            chosen = [at for at, one in enumerate(probes) if (one.source < one.target) == up]
            found = self._round([probes[at] for at in chosen])
            verdicts.update(zip(chosen, found, strict=True))
        return [verdicts[at] for at in range(len(probes))]

    def _round(self, probes: Sequence[Probe]) -> list[tuple[bool, bool]]:
        packets = [self._packet(one) for one in probes]
        arrived = self.lab.send(
            (STATIONS[one.source], STATIONS[one.target], packet)
            for one, packet in zip(probes, packets, strict=True)
        )
        answers = [packet.back(self._next()) for packet in packets]
        through = [at for at, one in enumerate(probes)
                   if (packets[at].number, STATIONS[one.target].port) in arrived]  # fmt: skip
        assert len(arrived) == len(through), "a packet went astray"
        back = self.lab.send(
            (STATIONS[probes[at].target], STATIONS[probes[at].source], answers[at])
            for at in through
        )
        return [
            (at in through, (answers[at].number, STATIONS[one.source].port) in back)
            for at, one in enumerate(probes)
        ]

    def _packet(self, probe: Probe) -> Packet:
        number = self._next()
        return Packet(
            number, STATIONS[probe.source].address(probe.version),
            STATIONS[probe.target].address(probe.version), probe.protocol,
            20000 + number % 40000, probe.port,
        )  # fmt: skip

    def _next(self) -> int:
        self._number += 1
        return self._number


PROTOCOLS = (("TCP", 80), ("TCP", 8080), ("UDP", 53), ("SCTP", 80), ("ICMP", 0), ("TCP", 8081))


def probes(shift: int) -> list[Probe]:
    """Every pair in both families; which protocols a pair is tried with turns with the case."""
    found = []
    for at, (source, target) in enumerate(permutations(range(len(STATIONS)), 2)):
        for version in (4, 6):
            for more in (0, 3):
                protocol, port = PROTOCOLS[(at + shift + more + version // 6) % len(PROTOCOLS)]
                found.append(Probe(source, target, version, protocol, port))
    return found


def wanted_of(tiers: Tiers, tried: Sequence[Probe]) -> list[bool]:
    """What the policies' texts say of each probe."""
    return [
        allowed(tiers, end(one.source, one.version), end(one.target, one.version), one.protocol,
                one.port)
        for one in tried
    ]  # fmt: skip


def differences(trial: Trial, tried: Sequence[Probe], wanted: Sequence[bool]) -> list[object]:
    """Probes that fare otherwise: with whether they came out, and were answered.

    What is let through is answered, whatever the policies of the one that answers.
    """
    said = (trial.lab.box.directory / "controller.log").read_text()
    assert "error parsing match" not in said
    found = trial.judged(tried)
    return [
        (probe, fared) for probe, fared, want in zip(tried, found, wanted, strict=True)
        if fared != (want, want)
    ]  # fmt: skip


def rows_of_tiers(
    tiers: Tiers, decided: NetSettings | None = None, nodes: Sequence[NetNode] = NODES_THERE
) -> Mapping[RowKey, Row]:
    """What the controller's units say of these policies and the cast."""
    facts = facts_of(map(network_policy, tiers.world.policies), PODS, NAMESPACES)
    facts.update(facts_of_admins(list(tiers.admin)))
    facts[NODES] = {node.name: node for node in nodes}
    facts[SETTINGS] = {"": decided or NetSettings()}
    said = whole((*UNITS, *NODE_UNITS, *ADMIN_UNITS), facts)
    assert said.disputed == set()
    assert said.problems == {}
    return said.rows


def rows_of_groups(
    groups: Mapping[str, Any], members: Mapping[str, Sequence[str]]
) -> Mapping[RowKey, Row]:
    """What the units say of SecurityGroups, by name, and of pods of the cast that name them."""
    facts = facts_of((), PODS, NAMESPACES)
    for key, pod in facts[PODS_KIND].items():
        names = ",".join(members.get(str(key), ()))
        facts[PODS_KIND][key] = replace(
            pod, annotations={"ovn.kubernetes.io/security_groups": names}
        )
    facts[SECURITY_GROUPS] = {
        name: SECURITY_GROUP.decode(Custom(Meta(name=name), msgspec.Raw(msgspec.json.encode(spec))))
        for name, spec in groups.items()
    }
    facts[NODES] = {node.name: node for node in NODES_THERE}
    said = whole((*GROUP_UNITS, *NODE_UNITS), facts)
    assert (said.disputed, said.problems) == (set(), {})
    return said.rows


def write(ovn: OvnSandbox, rows: Mapping[RowKey, Row]) -> None:
    """Put these port groups, address sets and ACLs in place of those that are there.

    One transaction, so that the database refuses all of it or nothing.
    """
    words: list[str] = []
    words += [word for name in GATEWAYS for word in ("--", "clear", "Logical_Switch", name, "acls")]
    for table in ("Port_Group", "Address_Set"):
        listed = ovn.nbctl("--bare", "--columns=_uuid", "list", table).split()
        words += [word for uuid in listed for word in ("--", "destroy", table, uuid)]
    groups = {key: row for key, row in rows.items() if key.table == "Port_Group"}
    for key, row in groups.items():
        words += ["--", "pg-add", key.name, *sorted(ref.name for ref in row.refs["ports"])]
    for at, (key, row) in enumerate(rows.items()):
        if key.table not in {"Address_Set", "ACL"}:
            continue
        words += ["--", f"--id=@r{at}", "create", key.table]
        words += [f"{name}={_atom(value)}" for name, value in row.columns.items() if _said(value)]
        if row.parent:
            (table, name), column = row.parent
            words += ["--", "add", table, name, column, f"@r{at}"]
    if words:
        ovn.nbctl(*words[1:])


def _said(value: object) -> bool:
    return value not in (frozenset(), ())


def _atom(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, frozenset):
        return "[" + ",".join(json.dumps(one) for one in sorted(value)) + "]"
    return "{" + ",".join(f"{json.dumps(k)}={json.dumps(v)}" for k, v in value) + "}"


@contextmanager
def running() -> Iterator[Trial]:
    """A trial in a lab of its own."""
    # Not pytest's tmp_path: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mrv-pkt-") as directory:
        box = OvnSandbox(Path(directory))
        try:
            box.start()
            lab = PacketLab(box, STATIONS)
            lab.start(GATEWAYS)
            yield Trial(lab)
        finally:
            box.stop()
