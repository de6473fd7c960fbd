"""The hosts' network seen from one node: its own port, and the networks behind VPC routers."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface

from controller.translate.families import IPInterface, interfaces
from controller.translate.index import Index, address_words
from controller.translate.nbrows import HOSTS_SWITCH, host_port
from controller.translate.ovn import LogicalRouterPort, is_ours
from dataplane.model.addr import IPAddress, IPNetwork, Mac
from dataplane.model.names import KUBERNETES_OWNER, OWNER, OWNER_KEY
from dataplane.model.state import HostAccess


def host_access(index: Index, chassis: str) -> HostAccess | None:
    """This chassis's port on the hosts' switch, and what is reached by it; None: it has none.

    Only rows of ours count: a switch of that name that somebody else made is not known to hold
    what the kernel's routes rely on. What is made of Kubernetes' objects is on a switch of any name
    (Kube-OVN's `join`). Of two VPC routers with one network the first by name has it.
    """
    port = index.port_by_name.get(host_port(chassis))
    switch = index.switch_of_port.get(host_port(chassis))
    if port is None or switch is None or not _made_here(port.external_ids):
        return None
    if is_ours(port.external_ids) and switch.name != HOSTS_SWITCH:
        return None
    peers = index.router_ports_on(switch)
    on_link = [interface for peer in peers for interface in interfaces(peer.networks)]
    for words in address_words(port):
        try:
            mac, addresses = Mac(words[0]), [ip_address(word) for word in words[1:]]
        except ValueError:  # northd warns of it in its own log
            continue
        own = tuple(
            _with_length(a, on_link) for a in sorted(addresses, key=lambda a: (a.version, int(a)))
        )
        return HostAccess(port.name, mac, own, _routes(index, peers))
    return None


def _made_here(external_ids: Mapping[str, str]) -> bool:
    return external_ids.get(OWNER_KEY) in (OWNER, KUBERNETES_OWNER)


def _with_length(address: IPAddress, on_link: list[IPInterface]) -> IPInterface:
    for interface in on_link:
        if address in interface.network:
            return ip_interface(f"{address}/{interface.network.prefixlen}")
    return ip_interface(f"{address}/{address.max_prefixlen}")


def _routes(
    index: Index, peers: tuple[LogicalRouterPort, ...]
) -> tuple[tuple[IPNetwork, IPAddress], ...]:
    router_of = {ref: router for router in index.nb.routers.values() for ref in router.ports}
    by_name = {index.nb.router_ports[ref].name: r for ref, r in router_of.items()
               if ref in index.nb.router_ports}  # fmt: skip
    found: dict[IPNetwork, IPAddress] = {}
    for peer in sorted(peers, key=lambda one: one.name):
        router = by_name.get(peer.name)
        via = {one.version: one.ip for one in interfaces(peer.networks)}
        if router is None or not _made_here(peer.external_ids):
            continue
        for ref in router.ports:
            port = index.nb.router_ports.get(ref)
            if port is None or is_ours(port.external_ids) or _on_a_wire(index, port):
                continue
            if port in peers:
                continue
            for network in _networks(port):
                if network.version in via:
                    found.setdefault(network, via[network.version])
    return tuple(
        sorted(found.items(), key=lambda r: (r[0].version, int(r[0].network_address), r[0]))
    )


def _networks(port: LogicalRouterPort) -> list[IPNetwork]:
    return [one.network for one in interfaces(port.networks) if not one.is_link_local]


def _on_a_wire(index: Index, port: LogicalRouterPort) -> bool:
    """Whether its network is a provider's: the node may have its own address on that."""
    switch = index.switch_of_router_port.get(port.name)
    return switch is not None and index.localnet_of(switch) is not None
