"""Containers as a kernel has them: namespaces with veth pairs on a real OVN, TCP, ping and DHCP.

The chassis's OVS runs in a namespace of its own with the userspace datapath; a container's address,
MAC and gateway are what its pod was told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers import processes
from tests.labs.applied import Applied
from tests.labs.fleet import BRIDGE
from tests.labs.netns import Namespace, finish_checksums, sweep, veth
from tests.labs.ovnsandbox import wait_until

PORT = 8080
PATIENCE_S = 10
_SERVER = f"""
import socket, threading
def serve(family, address):
    made = socket.create_server((address, {PORT}), family=family)
    while True:
        peer, who = made.accept()
        peer.sendall(who[0].encode())
        peer.close()
threading.Thread(target=serve, args=(socket.AF_INET6, "::"), daemon=True).start()
serve(socket.AF_INET, "0.0.0.0")
"""
"""Tells whoever connects which address he has here."""
_CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=int(sys.argv[3])) as made:
    print(made.recv(99).decode())
"""


@dataclass
class Container:
    """A namespace with one interface, which answers on PORT."""

    netns: Namespace
    addresses: tuple[str, ...] = ()

    def pings(self, address: str) -> bool:
        """Whether an address answers."""
        said = self.netns.run("ping", "-c", "1", "-W", str(PATIENCE_S), address, check=False)
        return " 0% packet loss" in said

    def seen_by(self, address: str) -> str:
        """Which address a server sees us come from by TCP."""
        return self._connected(address, PATIENCE_S)

    def is_shut_from(self, address: str) -> bool:
        """Whether neither ping nor TCP gets there, within long enough for where they do."""
        said = self.netns.run("ping", "-c", "1", "-W", "1", address, check=False)
        return "100% packet loss" in said and not self._connected(address, 1)

    def _connected(self, address: str, wait_s: int) -> str:
        words = (address, str(PORT), str(wait_s))
        return self.netns.run(sys.executable, "-c", _CLIENT, *words, check=False).strip()

    def serve(self, directory: str) -> None:
        """Answer connections."""
        name = self.netns.name
        processes.spawn(
            [sys.executable, "-c", _SERVER],
            log=Path(directory) / f"{name}.log",
            netns=name,
        )
        wait_until(f"{name} answers", lambda: self.seen_by("127.0.0.1") == "127.0.0.1")


@dataclass
class Node:
    """The chassis's namespace, its containers, and what lies outside."""

    prefix: str
    cluster: Applied
    netns: Namespace
    there: dict[str, Container] = field(default_factory=dict)

    def run(self, *pods: str) -> None:
        """Make these pods' containers, as a runtime does once they have their addresses."""
        cluster = self.cluster
        wait_until(
            "the pods have their addresses",
            lambda: set(pods) <= {one.port for one in cluster.stations()},
        )
        for station in (one for one in cluster.stations() if one.port in pods):
            said = cluster.pods()[station.port]
            device = f"v{len(self.there)}"
            inside = self._inside(device, station.mac)
            for address in station.addresses:
                words = ("nodad",) if ":" in address else ()
                inside.run("ip", "address", "add", address, "dev", "eth0", *words)
            families = {":" in address for address in station.addresses}
            for gateway in said["ovn.kubernetes.io/gateway"].split(","):
                if (":" in gateway) in families:
                    inside.run("ip", "route", "add", "default", "via", gateway)
            self._plug(device, station.port)
            self.there[station.port] = Container(inside, station.addresses)
        for pod in pods:
            wait_until(
                f"{pod} is up",
                lambda pod=pod: "up" in cluster.box.nbctl("lsp-get-up", pod),
            )
            self.there[pod].serve(str(cluster.box.directory))

    def guest(self, pod: str) -> Container:
        """A container that was told nothing but its MAC: it has to ask."""
        (station,) = (one for one in self.cluster.stations() if one.port == pod)
        device = f"v{len(self.there)}"
        inside = self._inside(device, station.mac)
        self._plug(device, pod)
        self.there[pod] = Container(inside, station.addresses)
        return self.there[pod]

    def outside(self, address: str, *others: str) -> Container:
        """A machine on the provider network, with further addresses of its own."""
        inside = self._inside("up0", "0a:00:00:00:99:01")
        inside.run("ip", "address", "add", address, "dev", "eth0")
        for other in others:
            inside.run("ip", "address", "add", f"{other}/32", "dev", "lo")
        self.cluster.box.vsctl("add-port", BRIDGE, "up0")
        found = Container(inside, (address,))
        found.serve(str(self.cluster.box.directory))
        return found

    def _inside(self, device: str, mac: str) -> Namespace:
        inside = Namespace(f"{self.prefix}-{device}").create()
        veth(self.netns, device, inside, "eth0")
        inside.run("ip", "link", "set", "eth0", "address", mac)
        for where, name in ((self.netns, device), (inside, "eth0")):
            finish_checksums(where, name)
        return inside

    def _plug(self, device: str, port: str) -> None:
        self.cluster.box.vsctl(
            "add-port", "br-int", device,
            "--", "set", "Interface", device, f"external_ids:iface-id={port}",
        )  # fmt: skip


@contextmanager
def namespace(prefix: str) -> Iterator[Namespace]:
    """The node's namespace; all of a prefix are gone before and after."""
    sweep(prefix)
    try:
        yield Namespace(f"{prefix}-node").create()
    finally:
        sweep(prefix)
