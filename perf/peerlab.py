"""The namespaces of `millrace perf peers`: for each contestant a router between client and backend.

::

    <name>-c  c0 --- r0  <name>-r  r1 --- b0  <name>-b

The backend's namespace has all backends' addresses; the router has a route to them and knows the
neighbours, so that nothing is asked while packets are counted.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.netns import delete_named, inside_named
from dataplane.model.addr import Mac

PREFIX = "mrpeer"
BACKENDS = IPv4Network("10.128.0.0/12")
VIPS = IPv4Network("10.96.0.0/12")
CLIENTS = IPv4Network("198.51.100.0/24")
SERVICE_ADDRESS = IPv4Address("100.64.255.1")
PORT, BACKEND_PORT = 80, 8080
BACKENDS_PER_SERVICE = 2
_NFNL_CT_FLUSH = 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_DELETE (linux/netfilter/nfnetlink_conntrack.h)."""


def vip(number: int) -> IPv4Address:
    """The VIP of a service, numbered from 0."""
    return VIPS[256 + number]


def backend(number: int, index: int) -> IPv4Address:
    """One backend of a service."""
    return BACKENDS[256 + number * BACKENDS_PER_SERVICE + index]


@dataclass(frozen=True, slots=True)
class Trio:
    """Client, router and backend of one contestant."""

    name: str

    @property
    def client(self) -> str:
        """The client's namespace."""
        return f"{self.name}-c"

    @property
    def router(self) -> str:
        """The router's, where frames are injected and the contestant works."""
        return f"{self.name}-r"

    @property
    def backend(self) -> str:
        """The backend's, where packets end."""
        return f"{self.name}-b"

    def build(self) -> None:
        """Namespaces, devices, addresses, routes, neighbours."""
        for space in (self.client, self.router, self.backend):
            processes.run(["ip", "netns", "add", space])
            processes.run(["ip", "link", "set", "lo", "up"], netns=space)
            for scope in ("all", "default"):
                self._sysctl(space, f"net.ipv6.conf.{scope}.disable_ipv6", "1")
                self._sysctl(space, f"net.ipv4.conf.{scope}.rp_filter", "0")
        for left, here, right, there in (
            (self.client, "c0", self.router, "r0"),
            (self.router, "r1", self.backend, "b0"),
        ):
            processes.run(
                ["ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", right],
                netns=left,
            )
        for space, device, address in (
            (self.client, "c0", "198.51.100.254/24"),
            (self.router, "r0", "198.51.100.253/24"),
            (self.router, "r1", "192.0.2.1/24"),
            (self.backend, "b0", "192.0.2.2/24"),
        ):
            processes.run(["ip", "address", "add", address, "dev", device], netns=space)
            processes.run(["ip", "link", "set", device, "up"], netns=space)
            # GRO makes a veth receive by NAPI, which redirected frames need and forwarded ones
            # then have, too. Checksums are finished and whole.
            processes.run(["ethtool", "-K", device, "gro", "on", "tx", "off"], netns=space)
        self._sysctl(self.router, "net.ipv4.ip_forward", "1")
        for words in (
            ["route", "add", str(BACKENDS), "via", "192.0.2.2"],
            ["neigh", "add", "192.0.2.2", "lladdr", str(self.mac("b")), "dev", "r1"],
        ):
            processes.run(["ip", *words], netns=self.router)
        for words in (
            ["route", "add", "local", str(BACKENDS), "dev", "lo"],
            ["route", "add", "default", "via", "192.0.2.1"],
        ):
            processes.run(["ip", *words], netns=self.backend)

    def remove(self) -> None:
        """Every namespace of it that is there, and so its devices."""
        for space in (self.client, self.router, self.backend):
            if (processes.NETNS_DIR / space).exists():
                delete_named(space)

    def mac(self, side: str) -> Mac:
        """The MAC of r0 ("r") or of b0 ("b")."""
        space, device = (self.router, "r0") if side == "r" else (self.backend, "b0")
        shown = processes.run(["ip", "-j", "link", "show", "dev", device], netns=space)
        return Mac(json.loads(shown)[0]["address"])

    def ifindex(self, device: str) -> int:
        """The number of r0, r1 or b0 in its namespace."""
        space = self.backend if device == "b0" else self.router
        return inside_named(space, lambda: socket.if_nametoindex(device))

    def _sysctl(self, space: str, name: str, value: str) -> None:
        processes.run(["sysctl", "-q", "-w", f"{name}={value}"], netns=space, check=False)

    def nftables(self, services: int) -> float:
        """kube-proxy's shape: one map of VIPs to verdicts, one chain a service; seconds to load."""
        return self._load(["nft", "-f", "-"], "\n".join(_nftables(services)))

    def iptables(self, services: int) -> float:
        """kube-proxy's shape: one rule a service in one chain, a chain a service and a backend."""
        return self._load(["iptables-legacy-restore"], "\n".join(_iptables(services)) + "\n")

    def _load(self, command: list[str], text: str) -> float:
        began = time.monotonic()
        processes.run(command, netns=self.router, text_in=text, timeout_s=300)
        return time.monotonic() - began

    def forget_flows(self) -> None:
        """Empty the router's conntrack."""
        inside_named(self.router, _flush_conntrack)


def sweep() -> None:
    """Remove what a killed run left: the name says whose it was."""
    if not processes.NETNS_DIR.is_dir():
        return
    for path in processes.NETNS_DIR.glob(f"{PREFIX}-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            delete_named(path.name)


def trio(name: str) -> Trio:
    """One of this process's."""
    return Trio(f"{PREFIX}-{os.getpid()}-{name}")


def _nftables(services: int) -> Iterator[str]:
    yield "table ip peers {"
    for number in range(services):
        targets = ", ".join(
            f"{i} : {backend(number, i)} . {BACKEND_PORT}" for i in range(BACKENDS_PER_SERVICE)
        )
        yield f" chain service-{number} {{"
        yield (
            f"  meta l4proto udp dnat ip to numgen random mod {BACKENDS_PER_SERVICE} "
            f"map {{ {targets} }}"
        )
        yield " }"
    yield " map service-ips {"
    yield "  type ipv4_addr . inet_proto . inet_service : verdict"
    pairs = (f"{vip(n)} . udp . {PORT} : goto service-{n}" for n in range(services))
    yield f"  elements = {{ {', '.join(pairs)} }}"
    yield " }"
    yield " chain services {"
    yield "  ip daddr . meta l4proto . th dport vmap @service-ips"
    yield " }"
    yield " chain prerouting {"
    yield "  type nat hook prerouting priority dstnat; policy accept;"
    yield "  jump services"
    yield " }"
    yield "}"


def _iptables(services: int) -> Iterator[str]:
    yield "*nat"
    yield ":SERVICES - [0:0]"
    for number in range(services):
        yield f":SVC-{number} - [0:0]"
        for index in range(BACKENDS_PER_SERVICE):
            yield f":SEP-{number}-{index} - [0:0]"
    yield "-A PREROUTING -j SERVICES"
    for number in range(services):
        yield f"-A SERVICES -d {vip(number)}/32 -p udp -m udp --dport {PORT} -j SVC-{number}"
        for index in range(BACKENDS_PER_SERVICE):
            left = BACKENDS_PER_SERVICE - index
            chance = (
                f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            )
            yield f"-A SVC-{number} {chance}-j SEP-{number}-{index}"
            target = f"{backend(number, index)}:{BACKEND_PORT}"
            yield f"-A SEP-{number}-{index} -p udp -m udp -j DNAT --to-destination {target}"
    yield "COMMIT"


def _flush_conntrack() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:
        netfilter.bind((0, 0))
        # NLM_F_REQUEST | NLM_F_ACK; no attribute: all entries of this namespace.
        netfilter.send(struct.pack("=IHHIIBBH", 20, _NFNL_CT_FLUSH, 5, 1, 0, 0, 0, 0))
        answer = netfilter.recv(4096)
    error = struct.unpack_from("=i", answer, 16)[0]
    if error:
        msg = f"conntrack could not be emptied: {os.strerror(-error)}"
        raise processes.ProcessError(msg)
