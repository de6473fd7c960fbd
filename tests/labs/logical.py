"""The lab's logical network, declared with ovn-nbctl as an operator would, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from dataplane.drivers import processes
from dataplane.model.addr import mac_of_address
from dataplane.model.names import FAST_PATH_KEY, TRAFFIC_POLICY_KEY


@dataclass(frozen=True, slots=True)
class Switch:
    """A logical switch and the router's address on it."""

    name: str
    router_address: IPv4Interface


@dataclass(frozen=True, slots=True)
class PodPort:
    """A logical switch port of a pod: `name` is <pod>.<namespace>."""

    name: str
    switch: str
    address: IPv4Interface

    @property
    def mac(self) -> str:
        """Its Ethernet address."""
        return str(mac_of_address(self.address.ip))


@dataclass(frozen=True, slots=True)
class Service:
    """A load balancer. `attached` names the switch that a foreign CMS put it on."""

    name: str
    vip: str
    protocol: str
    backends: tuple[str, ...]
    policy: str = "cluster"
    attached: str | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """Everything that is declared; gateway routers are the cluster controller's."""

    router: str
    switches: tuple[Switch, ...]
    workloads: tuple[PodPort, ...]
    services: tuple[Service, ...] = field(default=())


def nbctl(nb: str, *argv: str) -> str:
    """Run ovn-nbctl on a northbound database's remote."""
    return processes.run(["ovn-nbctl", f"--db={nb}", "--timeout=30", *argv])


def declare(nb: str, network: Network) -> None:
    """Write the network; the database must not have it yet."""
    words: list[str] = ["lr-add", network.router]
    for switch in network.switches:
        port = f"{network.router}-{switch.name}"
        peer = f"{switch.name}-{network.router}"
        mac = str(mac_of_address(switch.router_address.ip))
        words += ["--", "ls-add", switch.name]
        words += ["--", "lrp-add", network.router, port, mac, str(switch.router_address)]
        words += ["--", "lsp-add", switch.name, peer]
        words += ["--", "lsp-set-type", peer, "router"]
        words += ["--", "lsp-set-addresses", peer, "router"]
        words += ["--", "lsp-set-options", peer, f"router-port={port}"]
    for workload in network.workloads:
        words += ["--", *_port(workload)]
    nbctl(nb, *words)
    for service in network.services:
        add_service(nb, service)


def add_port(nb: str, workload: PodPort) -> None:
    """One more workload's port."""
    nbctl(nb, *_port(workload))


def _port(workload: PodPort) -> Sequence[str]:
    both = f"{workload.mac} {workload.address.ip}"
    return (
        "lsp-add", workload.switch, workload.name,
        "--", "lsp-set-addresses", workload.name, both,
        "--", "lsp-set-port-security", workload.name, both,
    )  # fmt: skip


def add_service(nb: str, service: Service) -> None:
    """One load balancer: marked for the fast path, or attached to a switch."""
    words = ["lb-add", service.name, service.vip, ",".join(service.backends), service.protocol]
    if service.attached is not None:
        words += ["--", "ls-lb-add", service.attached, service.name]
        nbctl(nb, *words)
        return
    nbctl(nb, *words)
    nbctl(
        nb, "set", "Load_Balancer", service.name,
        f'external_ids:"{FAST_PATH_KEY}"="true"',
        f'external_ids:"{TRAFFIC_POLICY_KEY}"="{service.policy}"',
    )  # fmt: skip


def set_backends(nb: str, service: str, vip: str, backends: Sequence[str]) -> None:
    """Change a load balancer's backends in place."""
    nbctl(nb, "set", "Load_Balancer", service, f'vips:"{vip}"="{",".join(backends)}"')


def socket_remote(rundir: Path) -> str:
    """The northbound remote of an embedded node."""
    return f"unix:{rundir / 'nb.sock'}"
