"""internalTrafficPolicy Local where OVN serves workloads: a template for each chassis to fill in.

One load balancer for all (`options:template`), whose backends are a variable: a row of
Chassis_Template_Var for each node says the node's own. Without one the chassis has no such load
balancer, so that packets are not translated and nobody answers them. Source: ovn-nb(5).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from hashlib import blake2b

from controller.kube.resources import Key
from controller.network.backends import Targets, by_address, listed, spelt, usable
from controller.network.eastwest import BY_OVN, by_ovn
from controller.network.facts import NODES
from controller.network.rows import Row, RowKey, Value, pairs
from controller.network.servicefacts import SERVICES, SLICES, NetService, NetServicePort
from controller.network.units import Said, Unit
from controller.network.view import Derived, View
from controller.translate.vips import PROTOCOLS
from dataplane.model.addr import IPAddress, readable
from dataplane.model.names import REJECT_OPTION


def is_template(view: View, service: NetService) -> bool:
    """Whether a service's cluster IPs are templates: Local, and OVN's to serve."""
    return service.internal_local and by_ovn(view, Key(service.namespace, service.name))


def targets_of(view: View, key: Hashable, port: NetServicePort) -> Targets:
    """The endpoints of one port of a service."""
    slices = [view.get(SLICES, part) for part in view.by(SLICES, "service", key)]
    return by_address(
        (one, part.ports[port.name, port.protocol])
        for part in slices
        if part is not None and (port.name, port.protocol) in part.ports
        for one in part.endpoints
    )


def _name(service: NetService, port: NetServicePort, version: int) -> str:
    return f"{service.namespace}/{service.name}/{port.label}/{port.protocol}/local{version}"


def _variable(name: str) -> str:
    return f"mrk_{blake2b(name.encode(), digest_size=8).hexdigest()}"


def _parts(service: NetService) -> Iterator[tuple[NetServicePort, IPAddress, str]]:
    for port in service.ports:
        if port.protocol in PROTOCOLS and 1 <= port.port <= 65535:
            for address in readable(service.cluster_ips):
                yield port, address, _name(service, port, address.version)


def template_keys(service: NetService) -> tuple[RowKey, ...]:
    """The rows of a service that is a template."""
    return tuple(RowKey("Load_Balancer", f"service/{name}") for _, _, name in _parts(service))


def template_rows(service: NetService) -> dict[RowKey, Row]:
    """They; no endpoint has a part in them."""
    rows = {}
    for port, address, name in _parts(service):
        options = {
            "template": "true",
            "address-family": f"ipv{address.version}",
            REJECT_OPTION: "true",
        }
        columns: dict[str, Value] = {
            "name": f"service/{name}",
            "protocol": port.protocol,
            "vips": pairs({spelt(address, port.port): f"^{_variable(name)}"}),
            "options": pairs(options),
        }
        rows[RowKey("Load_Balancer", f"service/{name}")] = Row(columns)
    return rows


def _local(view: View, key: Hashable) -> Mapping[str, Mapping[str, str]]:
    """By node: the variables of a service, those that have backends there."""
    service = view.get(SERVICES, key)
    if service is None or service.headless or not is_template(view, service):
        return {}
    found: dict[str, dict[str, str]] = {}
    for port, address, name in _parts(service):
        targets = targets_of(view, key, port)
        for node in sorted({one.node for one in targets.values() if one.node}):
            mine = {at: one for at, one in targets.items() if one.node == node}
            here = usable(mine, address.version, not_ready_too=service.not_ready_too, by_ovn=True)
            if here:
                found.setdefault(node, {})[_variable(name)] = listed(here)
    return found


LOCAL: Derived[Mapping[str, Mapping[str, str]]] = Derived("a service's backends by node", _local)


def _on_node(view: View, place: Hashable) -> Mapping[str, str]:
    """One service's variables on one node: what a node's row reads, so that others' leave it."""
    key, node = place if isinstance(place, tuple) else ("", "")
    return view.ask(LOCAL, key).get(node, {})


ON_NODE: Derived[Mapping[str, str]] = Derived("a service's backends on a node", _on_node)


def node_variables(view: View, key: Hashable) -> Said:
    """A node's row of variables."""
    if view.get(NODES, key) is None or not view.ask(BY_OVN, ""):
        return Said()
    services = {
        part.service
        for name in view.by(SLICES, "node", key)
        if (part := view.get(SLICES, name)) is not None
    }
    found: dict[str, str] = {}
    for service in services:
        mine: Mapping[str, str] = view.ask(ON_NODE, (service, key))
        found |= mine
    if not found:
        return Said()
    row = Row({"chassis": str(key), "variables": pairs(found)})
    return Said({RowKey("Chassis_Template_Var", str(key)): row})


UNITS: tuple[Unit, ...] = (Unit("backends by node", NODES, node_variables),)
