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


def sbctl(sb: str, *argv: str) -> str:
    """Run ovn-sbctl on a southbound database's remote."""
    return processes.run(["ovn-sbctl", f"--db={sb}", "--timeout=30", *argv])


@dataclass(frozen=True, slots=True)
class Dhcp:
    """What OVN's own DHCP tells the guests of a switch; the server is the router's port there."""

    router: IPv4Interface
    router_mac: str
    mtu: int

    @classmethod
    def of_lab(cls) -> Dhcp:
        """Of the labs' switch sw0, with an MTU that no port has by itself."""
        return cls(IPv4Interface("10.1.0.1/24"), "0a:58:0a:01:00:01", 1400)


def offer_dhcp(nb: str, dhcp: Dhcp, *ports: str) -> None:
    """Have OVN answer these ports' DHCP requests with the port's own address."""
    words = [
        "--id=@d", "create", "DHCP_Options", f"cidr={dhcp.router.network}",
        f'options:server_id="{dhcp.router.ip}"', f'options:server_mac="{dhcp.router_mac}"',
        f'options:router="{dhcp.router.ip}"', 'options:lease_time="3600"',
        f'options:mtu="{dhcp.mtu}"',
    ]  # fmt: skip
    for port in ports:
        words += ["--", "set", "Logical_Switch_Port", port, "dhcpv4_options=@d"]
    nbctl(nb, *words)


def place(nb: str, port: str, chassis: Sequence[str], *, rarp: bool = False) -> None:
    """Say where a port may be bound: one chassis, both of a migration, or (none) anywhere.

    With `rarp` the second gets and sends nothing until a RARP came from there.
    """
    options = [f"requested-chassis={','.join(chassis)}"] if chassis else []
    options += ["activation-strategy=rarp"] if rarp else []
    nbctl(nb, "lsp-set-options", port, *options)
