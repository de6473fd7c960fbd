"""Workloads' ports on their switches, and what their pods say of it; Vips."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from sys import intern

from controller.kinds.addresses import VIP_RESOURCE, VIPS, Vip
from controller.kinds.subnet import SUBNETS, is_logical
from controller.kinds.underlay import VLANS
from controller.kinds.workloads import INSTANCES
from controller.kube.resources import PODS as POD_OBJECTS
from controller.kube.resources import Key
from controller.network import dhcp
from controller.network.asks import vip_nic
from controller.network.external import inner
from controller.network.facts import LEASES, PODS, NetPod, NicLease
from controller.network.nets import NETS
from controller.network.nics import annotation, as_its_own, nics_of
from controller.network.podroutes import PodRoutes, pod_routes
from controller.network.qos import port_limits
from controller.network.rows import Row, RowKey, pairs
from controller.network.settings import settings
from controller.network.subnet import switch
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import View
from controller.translate.ovn import Problem
from dataplane.model.addr import readable

_EMPTY: frozenset[str] = frozenset()
"""This one, for an empty set is 216 bytes each time that it is made."""
_DHCP = {4: "dhcpv4_options", 6: "dhcpv6_options"}
_NO_DHCP: Mapping[str, frozenset[RowKey]] = dict.fromkeys(_DHCP.values(), frozenset())


def port(name: str) -> RowKey:
    """The row of a port."""
    return RowKey("Logical_Switch_Port", name)


def compute(view: View, key: Hashable) -> Said:
    """The row of one interface; parent_name and tag are the node daemon's."""
    lease = view.get(LEASES, key)
    if lease is None or not lease.provider:
        return Said()
    pod = view.get(PODS, lease.pod)
    said = as_its_own(pod.annotations, lease.provider) if pod is not None else {}
    who, ref = f"pod {lease.pod}", ObjectRef(str(POD_OBJECTS), *lease.pod)
    addresses = " ".join((str(lease.mac), *map(str, lease.addresses)))
    routes = pod_routes(who, lease.provider, said, view.get(NETS, lease.subnet))
    if not is_logical(lease.provider):
        return _reserved(lease, addresses, routes, ref)
    # Frames to a MAC that no port has go to such a port, too (a bridge within the pod).
    forwards = _flag(said, lease.provider, "layer2_forward") == "true"
    problems = list(routes.problems)
    rows: dict[RowKey, Row] = {}
    refs = _dhcp(view, lease, said, rows, problems)
    limits = port_limits(who, lease.provider, said)
    problems += limits.problems
    problems += (
        Problem(
            who,
            f"{annotation(lease.provider, 'aaps')}: Vip {name} is not for this pod",
            "make it, or see its namespace and its selector",
        )
        for name in _listed(said, lease.provider)
        if not _may_have(view, name, lease.pod)
    )
    rows[port(lease.port)] = Row(
        {
            "name": lease.port,
            "type": "",
            "addresses": frozenset({addresses, "unknown"} if forwards else {addresses}),
            "port_security": frozenset(_security(view, lease, said, addresses)) or _EMPTY,
            "options": pairs({**_placement(view, pod), **limits.options}),
            "external_ids": pairs(
                {
                    "ls": lease.subnet,
                    "pod": str(lease.pod),
                    **limits.external_ids,
                    **routes.external_ids,
                }
            ),
        },
        refs,
        (switch(lease.subnet), "ports"),
    )
    return Said(rows, {}, {ref: tuple(problems)} if problems else {})


def _reserved(lease: NicLease, addresses: str, routes: PodRoutes, ref: ObjectRef) -> Said:
    """The row of an interface that another plugin makes: the node tells that plugin what it says.

    No frame is switched by it, and nobody can claim it.
    """
    row = Row(
        {
            "name": lease.port,
            "type": "",
            "addresses": frozenset({addresses}),
            "enabled": False,
            "external_ids": pairs(
                {"ls": lease.subnet, "pod": str(lease.pod), **routes.external_ids}
            ),
        },
        parent=(switch(lease.subnet), "ports"),
    )
    return Said({port(lease.port): row}, {}, {ref: routes.problems} if routes.problems else {})


def _security(
    view: View, lease: NicLease, said: Mapping[str, str], addresses: str
) -> Iterable[str]:
    asked = _flag(said, lease.provider, "port_security")
    secure = asked == "true" or (not asked and settings(view).port_security)
    if not secure or not lease.addresses:
        return
    more = [one.strip() for one in said.get(annotation(lease.provider, "port_vips"), "").split(",")]
    for name in _listed(said, lease.provider):
        vip = view.get(LEASES, vip_nic(view, name)) if _may_have(view, name, lease.pod) else None
        more += map(str, vip.addresses if vip else ())
    yield " ".join((addresses, *(one for one in more if readable((one,)))))


def _flag(said: Mapping[str, str], provider: str, name: str) -> str:
    """What an annotation says, read as `controller.network.unheeded` reads it before it tells."""
    return said.get(annotation(provider, name), "").strip().lower()


def _may_have(view: View, name: str, key: Key) -> bool:
    """Whether a Vip is for this pod: one of its namespace that has all labels that it selects."""
    vip, pod = view.get(VIPS, name), view.get(PODS, key)
    if vip is None or pod is None or vip.namespace != key.namespace:
        return False
    words = (word.partition(":") for word in vip.selector)
    return all(pod.labels.get(label.strip()) == value.strip() for label, _, value in words)


def _listed(said: Mapping[str, str], provider: str) -> list[str]:
    """The Vips that a pod asks for, by name."""
    text = said.get(annotation(provider, "aaps"), "")
    return [name for part in text.split(",") if (name := part.strip())]


def _placement(view: View, pod: NetPod | None) -> dict[str, str]:
    """A machine's port is bound where it runs; while it migrates, where it goes to as well."""
    if pod is None or not pod.vm:
        return {}
    runs = view.get(INSTANCES, Key(pod.namespace, pod.vm))
    nodes: list[str] = []
    for key in view.by(PODS, "vm", Key(pod.namespace, pod.vm)):
        one = view.get(PODS, key)
        if one is not None and one.node and not one.over and one.node not in nodes:
            nodes.append(one.node)
    nodes.sort(key=lambda node: (runs is None or node != runs.node, node))
    if not nodes:
        return {}
    options = {"requested-chassis": ",".join(nodes)}
    if len(nodes) > 1:
        # Nothing leaves the target before the machine is there: it says so by a RARP.
        options["activation-strategy"] = "rarp"
    return options


def _dhcp(
    view: View,
    lease: NicLease,
    said: Mapping[str, str],
    rows: dict[RowKey, Row],
    problems: list[Problem],
) -> Mapping[str, frozenset[RowKey]]:
    """What answers to this port's DHCP requests: its own options, or its subnet's."""
    subnet, net = view.get(SUBNETS, lease.subnet), view.get(NETS, lease.subnet)
    if subnet is None or net is None:
        return _NO_DHCP
    found = dict(_NO_DHCP)
    mtu = subnet.mtu or settings(view).mtu
    for version in (4, 6):
        if not any(address.version == version for address in lease.addresses):
            continue
        own = said.get(annotation(lease.provider, f"dhcp-v{version}-options"), "")
        if own:
            try:
                # A pod's own are all there is, whatever its subnet says (Kube-OVN's page "DHCP").
                row = dhcp.options_row(subnet, net, version, mtu, own)
            except ValueError as error:
                who = f"pod {lease.pod}"
                problems.append(dhcp.fault(who, f"dhcp-v{version}-options", error))
                continue
            if row is not None:
                rows[dhcp.port_options(lease.port, version)] = row
                found[_DHCP[version]] = frozenset({dhcp.port_options(lease.port, version)})
        elif subnet.dhcp:
            found[_DHCP[version]] = frozenset({dhcp.switch_options(net.name, version)})
    return found if any(found.values()) else _NO_DHCP


def tell(view: View, key: Hashable) -> Said:
    """What a pod's annotations say of its interfaces."""
    pod = view.get(PODS, key)
    if pod is None:
        return Said()
    told: dict[str, str | None] = {}
    nics = nics_of(view, pod).found
    for nic in nics:
        lease = view.get(LEASES, nic.port)
        net = view.get(NETS, lease.subnet) if lease is not None else None
        if lease is None or net is None:
            continue
        mine: dict[str, str] = {
            "allocated": "true",
            "ip_address": ",".join(map(str, lease.addresses)),
            "mac_address": str(lease.mac),
            "cidr": net.cidr,
            "gateway": inner(view, net).gateway,
            "logical_switch": lease.subnet,
        }
        if nic.logical:
            mine |= {"routed": "true", "pod_nic_type": "veth-pair"}
            if net.routed:
                mine["logical_router"] = net.vpc
            mine |= _wire(view, lease.subnet)
            if pod.vm:
                mine["virtualmachine"] = pod.vm
        told.update((annotation(nic.provider, name), intern(value)) for name, value in mine.items())
    ref = ObjectRef(str(POD_OBJECTS), pod.namespace, pod.name)
    return Said(writes={ref: Wanted(annotations=told)} if told else {})


def _wire(view: View, name: str) -> dict[str, str]:
    subnet = view.get(SUBNETS, name)
    vlan = view.get(VLANS, subnet.vlan) if subnet is not None and subnet.vlan else None
    if vlan is None:
        return {}
    return {"vlan_id": str(vlan.tag), "provider_network": vlan.provider}


def vips(view: View, key: Hashable) -> Said:
    """A Vip's status, and its port where pods share it."""
    vip = view.get(VIPS, key)
    if vip is None:
        return Said()
    ref = ObjectRef(str(VIP_RESOURCE), "", vip.name)
    cause, step = "spec.attachSubnets has no effect here", "take it away; docs/kubernetes-kinds.md"
    void = {ref: (Problem(f"Vip {vip.name}", cause, step),)} if vip.attached else {}
    lease = view.get(LEASES, vip_nic(view, vip.name))
    if lease is None:
        return Said(writes={ref: Wanted(status={"ready": False}, finalizer=False)}, problems=void)
    by_family = {address.version: str(address) for address in lease.addresses}
    told = {
        "ready": True,
        "type": vip.use,
        "v4ip": by_family.get(4, ""),
        "v6ip": by_family.get(6, ""),
        "mac": str(lease.mac),
    }
    writes = {ref: Wanted(status=told)}
    parents = _parents(view, vip, lease)
    if vip.use or not parents or lease.provider:
        return Said(writes=writes, problems=void)
    # OVN knows one address of a virtual port: the first family has it.
    row = Row(
        {
            "name": vip.name,
            "type": "virtual",
            "addresses": frozenset({" ".join((str(lease.mac), *by_family.values()))}),
            "options": pairs(
                {"virtual-ip": str(lease.addresses[0]), "virtual-parents": ",".join(parents)}
            ),
        },
        parent=(switch(lease.subnet), "ports"),
    )
    return Said({port(vip.name): row}, writes, void)


def _parents(view: View, vip: Vip, lease: NicLease) -> list[str]:
    """The ports on the Vip's switch of those who ask for it and may have it."""
    keys = [key for key in view.by(PODS, "aaps", vip.name) if _may_have(view, vip.name, key)]
    found = []
    for key in keys:
        for name in view.by(LEASES, "pod", key):
            one = view.get(LEASES, name)
            if one is not None and one.subnet == lease.subnet and is_logical(one.provider):
                found.append(one.port)
    return sorted(found)


UNITS: tuple[Unit, ...] = (
    Unit("ports", LEASES, compute),
    Unit("annotations of pods", PODS, tell),
    Unit("vips", VIPS, vips),
)
