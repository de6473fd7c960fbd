"""Facts as they come and go, and the allocator beside them, as the loop drives it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from controller.kinds.addresses import VIPS
from controller.kinds.subnet import SUBNETS, Accepted, Subnet
from controller.kube.resources import Key
from controller.network.allocator import Allocator
from controller.network.asks import vip_nic
from controller.network.facts import LEASES, NAMESPACES, PODS, NetNamespace, NetPod, NicLease
from controller.network.heldports import HeldPort
from controller.network.ledger import Change
from controller.network.nets import NETS, REFUSALS, USAGE, Net
from controller.network.view import Kind
from tests.labs.factview import FactView

OUTPUTS = (LEASES, NETS, USAGE, REFUSALS)


@dataclass
class World:
    """Facts, and an allocator that is told of every change."""

    facts: dict[Kind[Any], dict[Any, Any]] = field(default_factory=dict)
    ports: list[HeldPort] = field(default_factory=list)
    allocator: Allocator | None = None

    def have(self, kind: Kind[Any], key: Hashable, fact: Any | None) -> None:
        table = self.facts.setdefault(kind, {})
        if fact is None:
            table.pop(key, None)
        else:
            table[key] = fact
        if self.allocator is not None:
            self._take(self.allocator.changed({kind: [key]}))

    def start(self, unread: Iterable[Key] = ()) -> World:
        self.allocator = Allocator(FactView(self.facts))
        self._take(self.allocator.start(self.ports, unread))
        return self

    def _take(self, changes: list[Change]) -> None:
        for kind, key, fact in changes:
            table = self.facts.setdefault(kind, {})
            if fact is None:
                del table[key]
            else:
                table[key] = fact

    def lease(self, port: str) -> NicLease | None:
        found: NicLease | None = self.facts.get(LEASES, {}).get(port)
        return found

    def ip(self, port: str) -> str:
        lease = self.lease(port)
        return ",".join(map(str, lease.addresses)) if lease else "none"

    def net(self, name: str) -> Net:
        found: Net = self.facts[NETS][name]
        return found

    def why(self, *holder: str) -> str:
        problems = self.facts.get(REFUSALS, {}).get(holder, ())
        return "; ".join(f"{p.cause}: {p.next_step}" for p in problems)

    def pod(self, name: str, **fields: Any) -> None:
        self.have(PODS, Key("ns", name), NetPod("ns", name, uid=f"uid-{name}", **fields))

    def annotate(self, name: str, provider: str = "ovn") -> None:
        """Do what the loop does: the lease is written to the pod."""
        pod = self.facts[PODS][Key("ns", name)]
        suffix = "" if provider == "ovn" else f".{provider}"
        lease = self.lease(f"{pod.vm or name}.ns{suffix}")
        assert lease is not None
        told = {
            "allocated": "true",
            "ip_address": ",".join(map(str, lease.addresses)),
            "mac_address": str(lease.mac),
            "logical_switch": lease.subnet,
        }
        mine = {f"{provider}.kubernetes.io/{key}": value for key, value in told.items()}
        self.have(PODS, Key("ns", name), replace(pod, annotations={**pod.annotations, **mine}))

    def tell_vips(self) -> None:
        """Do what the loop does: what Vips have is written to their status."""
        for name, vip in list(self.facts.get(VIPS, {}).items()):
            lease = self.lease(vip_nic(FactView(self.facts), name))
            if lease is not None:
                held = tuple(map(str, lease.addresses))
                self.have(VIPS, name, replace(vip, held=held, held_mac=str(lease.mac)))

    def again(self, ports: list[HeldPort], unread: Iterable[Key] = ()) -> World:
        """A controller that starts anew with the same objects, `unread` ones beside them."""
        kept = {kind: dict(there) for kind, there in self.facts.items() if kind not in OUTPUTS}
        for name, subnet in kept[SUBNETS].items():
            net = self.net(name)
            if net.usable:
                said = Accepted(net.vpc, net.cidr, net.gateway, net.excluded)
                kept[SUBNETS][name] = replace(subnet, accepted=said)
        return World(kept, ports).start(unread)

    def held(self) -> list[HeldPort]:
        """The ports that OVN's database has of these leases."""
        leases = self.facts.get(LEASES, {}).items()
        return [HeldPort(port, one.subnet, one.addresses, one.mac) for port, one in leases]


def world(*subnets: Subnet) -> World:
    there = subnets or (Subnet("ovn-default", default=True, cidr="10.16.0.0/24"),)
    found = World({SUBNETS: {one.name: one for one in there}})
    found.facts[NAMESPACES] = {"ns": NetNamespace("ns", {"team": "a"})}
    return found
