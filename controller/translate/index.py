"""Look-ups over one pair of snapshots, each built once and only when asked for.

With 10,000 ports a pass over the port table costs milliseconds; every question that the
translation asks more than once is answered from here. A snapshot never changes, so nothing here is
ever stale: throw the index away with its snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, ip_address

from controller.translate.ovn import (
    LogicalRouter,
    LogicalRouterPort,
    LogicalSwitch,
    LogicalSwitchPort,
    NbSnapshot,
    Refs,
    SbSnapshot,
)
from controller.translate.vips import PROTOCOLS, l4
from dataplane.model.addr import IPAddress, L4Addr, Protocol

_SOURCES = {
    "port_by_name": ("switch_ports",),
    "switch_of_port": ("switches", "switch_ports"),
    "router_port_by_name": ("router_ports",),
    "owners": ("switch_ports",),
    "attached_to": ("switches", "routers", "load_balancer_groups"),
    "switch_of_router_port": ("switches", "switch_ports"),
}
"""The northbound tables that each look-up is made of."""

_SB_SOURCES = {"nodes": ("chassis",), "hosts": ("chassis",), "offline": ("service_monitors",)}
"""The same of the southbound database."""


def ipv4_interfaces(networks: tuple[str, ...]) -> tuple[IPv4Interface, ...]:
    """The IPv4 entries of a router port's networks, in order; what does not parse is left out."""
    found = []
    for text in networks:
        try:
            found.append(IPv4Interface(text))
        except ValueError:  # IPv6, or northd's to complain about
            continue
    return tuple(found)


def address_words(port: LogicalSwitchPort) -> Iterator[list[str]]:
    """The words "mac ip ..." of each entry of a port's addresses, "dynamic" filled in.

    Source: ovn-nb(5), Logical_Switch_Port.addresses: "dynamic" may stand alone, after a MAC
    ("mac dynamic") or before an address ("dynamic ip"); the outcome is in dynamic_addresses.
    """
    for entry in port.addresses:
        words = entry.split()
        if "dynamic" in words:
            if port.dynamic_addresses:
                yield port.dynamic_addresses.split()
        elif words and words[0] not in {"unknown", "router"}:
            yield words


@lru_cache(maxsize=65536)
def octets(text: str) -> bytes | None:
    """An address's octets, for IPv6 has many spellings; None if it is none.

    Remembered: of ten thousand ports' addresses a few change at a time.
    """
    host = text.partition("/")[0]
    try:
        return (IPv6Address(host) if ":" in host else IPv4Address(host)).packed
    except ValueError:
        return None


class Index:
    """Look-ups over one NB and one SB snapshot."""

    def __init__(self, nb: NbSnapshot, sb: SbSnapshot, before: Index | None = None) -> None:
        """Nothing is computed yet, but what an earlier index has of tables that are the same."""
        self.nb = nb
        self.sb = sb
        if before is None:
            return
        for sources, now, then in ((_SOURCES, nb, before.nb), (_SB_SOURCES, sb, before.sb)):
            same = {
                table
                for table in {table for tables in sources.values() for table in tables}
                # Equal mappings are compared row by row, even if they are one.
                if getattr(now, table) is getattr(then, table)
                or getattr(now, table) == getattr(then, table)
            }
            for name, tables in sources.items():
                if name in vars(before) and same.issuperset(tables):
                    vars(self)[name] = vars(before)[name]

    @cached_property
    def port_by_name(self) -> dict[str, LogicalSwitchPort]:
        """Logical switch ports by name."""
        return {port.name: port for port in self.nb.switch_ports.values()}

    @cached_property
    def switch_of_port(self) -> dict[str, LogicalSwitch]:
        """The switch of each logical switch port, by the port's name."""
        ports = self.nb.switch_ports
        return {
            ports[ref].name: switch
            for switch in self.nb.switches.values()
            for ref in switch.ports
            if ref in ports
        }

    @cached_property
    def router_port_by_name(self) -> dict[str, LogicalRouterPort]:
        """Logical router ports by name."""
        return {port.name: port for port in self.nb.router_ports.values()}

    @cached_property
    def owners(self) -> dict[bytes, list[LogicalSwitchPort]]:
        """Workloads' ports by each IP address they hold (its octets), sorted by name."""
        found: dict[bytes, list[LogicalSwitchPort]] = {}
        for port in self.nb.switch_ports.values():
            if port.type in {"", "virtual", "external"}:
                for words in address_words(port):
                    for address in words[1:]:
                        if packed := octets(address):
                            found.setdefault(packed, []).append(port)
        for ports in found.values():
            ports.sort(key=lambda port: port.name)
        return found

    @cached_property
    def nodes(self) -> dict[IPAddress, str]:
        """The chassis of each encapsulation address."""
        found: dict[IPAddress, str] = {}
        for chassis in self.sb.chassis.values():
            for text in chassis.encap_ips:
                try:
                    found[ip_address(text)] = chassis.name
                except ValueError:  # ovn-controller's to complain about
                    continue
        return found

    @cached_property
    def hosts(self) -> frozenset[IPAddress]:
        """Encapsulation addresses of all chassis: addresses of hosts, not of workloads."""
        return frozenset(self.nodes)

    @cached_property
    def offline(self) -> frozenset[L4Addr]:
        """The backends that OVN's health checks found down (ovn-sb(5), Service_Monitor.status)."""
        found = set()
        for monitor in self.sb.service_monitors.values():
            if monitor.status in {"offline", "error"}:
                host = f"[{monitor.ip}]" if ":" in monitor.ip else monitor.ip
                protocol = PROTOCOLS.get(monitor.protocol or "tcp", Protocol.TCP)
                target = l4(protocol, f"{host}:{monitor.port}")
                if isinstance(target, L4Addr):
                    found.add(target)
        return frozenset(found)

    @cached_property
    def attached_to(self) -> dict[str, tuple[str, ...]]:
        """Each attached load balancer's UUID: "switch x", "router y", sorted."""
        found: dict[str, set[str]] = {}
        places: list[tuple[str, LogicalSwitch | LogicalRouter]] = [
            *(("switch", switch) for switch in self.nb.switches.values()),
            *(("router", router) for router in self.nb.routers.values()),
        ]
        for kind, place in places:
            for ref in self._load_balancers(place.load_balancers, place.load_balancer_groups):
                found.setdefault(ref, set()).add(f"{kind} {place.name}")
        return {ref: tuple(sorted(names)) for ref, names in found.items()}

    def _load_balancers(self, direct: Refs, groups: Refs) -> Iterator[str]:
        yield from direct
        for ref in groups:
            if group := self.nb.load_balancer_groups.get(ref):
                yield from group.load_balancers

    def router_ports_on(self, switch: LogicalSwitch) -> tuple[LogicalRouterPort, ...]:
        """The router ports that a switch's ports of type "router" lead to, sorted by name."""
        found = []
        for ref in switch.ports:
            port = self.nb.switch_ports.get(ref)
            if port and port.type == "router":
                peer = self.router_port_by_name.get(port.options.get("router-port", ""))
                if peer:
                    found.append(peer)
        return tuple(sorted(found, key=lambda peer: peer.name))

    @cached_property
    def switch_of_router_port(self) -> dict[str, LogicalSwitch]:
        """The switch that each logical router port is plugged into, by the router port's name."""
        found = {}
        for port in self.nb.switch_ports.values():
            if port.type == "router" and port.name in self.switch_of_port:
                found[port.options.get("router-port", "")] = self.switch_of_port[port.name]
        return found

    def localnet_of(self, switch: LogicalSwitch) -> LogicalSwitchPort | None:
        """The switch's localnet port (the first by name), if it has one."""
        ports = [self.nb.switch_ports[ref] for ref in switch.ports if ref in self.nb.switch_ports]
        found = sorted((p for p in ports if p.type == "localnet"), key=lambda port: port.name)
        return found[0] if found else None

    def chassis_of(self, port_name: str) -> str | None:
        """The name of the chassis that a logical port is bound to (SB Port_Binding)."""
        binding = self.sb.port_bindings.get(port_name)
        chassis = self.sb.chassis.get(binding.chassis or "") if binding else None
        return chassis.name if chassis else None
