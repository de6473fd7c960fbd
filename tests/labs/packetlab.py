"""Real packets through a real OVN: userspace OVS with dummy devices, whose conntrack is real too.

A packet is given to a workload's device as its guest would send it, and what comes out anywhere is
read from the devices' own captures. Nothing is waited for by time: behind its packets each device
sends an ARP request for its router, and packets of one device keep their order, so that the answer
says that everything before it was judged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path

from dataplane.drivers.unixctl import UnixctlClient
from tests.labs.ovnsandbox import OvnSandbox, wait_until
from tests.labs.packets import (
    CAPTURE_HEAD,
    Packet,
    arp_request,
    frame,
    frames_since,
    is_advertisement,
    neighbour_solicitation,
    number_of,
)

CHASSIS = "n1"


@dataclass(frozen=True, slots=True)
class Station:
    """A workload: its logical port, switch, and addresses (one a family, with the length)."""

    port: str
    switch: str
    mac: str
    addresses: tuple[str, ...]

    def address(self, version: int) -> str:
        """Its address of a family."""
        found = [text for text in self.addresses if ip_interface(text).version == version]
        return str(ip_interface(found[0]).ip)


Sending = tuple[Station, Station | None, Packet]
"""Who sends, to whom (None: somewhere behind the router), and what."""


@dataclass
class PacketLab:
    """Stations on switches that one router joins; `start` makes them on the sandbox's chassis."""

    box: OvnSandbox
    stations: tuple[Station, ...]
    router_macs: dict[str, str] = field(default_factory=dict)
    _read: dict[str, int] = field(default_factory=dict)
    gateways: dict[str, str] = field(default_factory=dict)
    gateways6: dict[str, str] = field(default_factory=dict)

    def start(self, gateways: Mapping[str, tuple[str, ...]]) -> None:
        """Make the network. `gateways`: by switch, the router's addresses there with lengths."""
        self.box.start_chassis(CHASSIS, "127.0.0.1", "phys", "br-phys")
        self.box.router("lr")
        for at, (switch, addresses) in enumerate(gateways.items()):
            self.box.switch(switch)
            self.router_macs[switch] = f"0a:00:00:01:00:{at:02x}"
            self.box.connect("lr", switch, self.router_macs[switch], *addresses)
        for ways, mark in ((self.gateways, "."), (self.gateways6, ":")):
            for name, found in gateways.items():
                ways[name] = next(str(ip_interface(a).ip) for a in found if mark in a)
        for one in self.stations:
            hosts = " ".join(str(ip_interface(text).ip) for text in one.addresses)
            self.box.vm(one.switch, one.port, one.mac, hosts)
        self.attach()

    def attach(self, since: int = 0) -> None:
        """Give each station from this one on a device, and wait until OVN has its port."""
        wait_until("ovn-controller has made br-int", lambda: "br-int" in self.box.vsctl("list-br"))
        words: list[str] = []
        for at, one in list(enumerate(self.stations))[since:]:
            words += [
                "--", "add-port", "br-int", f"p{at}", "--", "set", "Interface", f"p{at}",
                "type=dummy", f"external_ids:iface-id={one.port}",
                f"options:tx_pcap={self._capture(at)}",
            ]  # fmt: skip
        self.box.vsctl(*words[1:])
        self.sync()
        for one in self.stations[since:]:
            wait_until(
                f"{one.port} is up",
                lambda port=one.port: "up" in self.box.nbctl("lsp-get-up", port),
            )

    def sync(self) -> None:
        """Wait until the chassis forwards by what the northbound database holds.

        Flows that the datapath has cached outlive a change of OpenFlow by up to a second.
        """
        self.box.nbctl("--timeout=60", "--wait=hv", "sync")
        self._client().call("revalidator/purge")

    def forget(self) -> None:
        """Empty connection tracking."""
        self._client().call("dpctl/flush-conntrack")

    def passes_from_here(self) -> None:
        """Let OVS count from nothing."""
        self._client().call("dpif-netdev/pmd-stats-clear")

    def recirculated(self) -> int:
        """How often packets went through the datapath again."""
        said = self._client().call("dpif-netdev/pmd-stats-show")
        return sum(map(int, re.findall(r"packet recirculations: (\d+)", said)))

    def send(self, packets: Iterable[Sending]) -> set[tuple[int, str]]:
        """Send packets.

        Returns:
            (the packet's number, port that it came out of).
        """
        client = self._client()
        used: set[str] = set()
        for source, target, packet in packets:
            near = target is not None and target.switch == source.switch
            towards = target.mac if target and near else self.router_macs[source.switch]
            self._give(client, source, frame(source.mac, towards, packet))
            used.add(source.port)
        senders = [one for one in self.stations if one.port in used]
        found: set[tuple[int, str]] = set()
        answered: Counter[str] = Counter()
        for one in senders:
            gateway = self.gateways[one.switch]
            self._give(client, one, arp_request(one.mac, one.address(4), gateway))

        def collected() -> bool:
            for at, one in enumerate(self.stations):
                for octets in self._captured(at):
                    number = number_of(octets)
                    if number is not None:
                        found.add((number, one.port))
                    elif octets[12:14] == b"\x08\x06" and octets[20:22] == b"\0\x02":
                        answered[one.port] += 1
            return all(answered[one.port] for one in senders)

        wait_until("the router has answered each sender", collected)
        # Packets of one batch come out in any order; the thread that is asked now has finished it.
        client.call("version")
        collected()
        return found

    def ask_router(self, station: Station) -> None:
        """Have a station ask for its router's addresses (RFC 826, RFC 4861) until both came.

        Raises:
            AssertionError: one did not come.
        """
        gateway = self.gateways6[station.switch]
        asked = neighbour_solicitation(station.mac, station.address(6), gateway)
        client = self._client()
        self._give(client, station, asked)
        self._give(client, station, arp_request(station.mac, station.address(4),
                                                self.gateways[station.switch]))  # fmt: skip
        seen: list[bytes] = []

        def arp_came() -> bool:
            seen.extend(self._captured(self.stations.index(station)))
            return any(octets[12:14] == b"\x08\x06" for octets in seen)

        def advertised() -> bool:
            arp_came()
            return any(is_advertisement(octets, gateway) for octets in seen)

        wait_until("the router has answered in IPv4", arp_came)
        # ARP is answered by a flow, neighbour discovery by ovn-controller, which has it from there.
        wait_until("the router has answered in IPv6", advertised)

    def _client(self) -> UnixctlClient:
        return UnixctlClient(str(self.box.directory / "vswitchd.ctl"))

    def _give(self, client: UnixctlClient, station: Station, octets: bytes) -> None:
        at = self.stations.index(station)
        client.call("netdev-dummy/receive", f"p{at}", octets.hex())

    def _capture(self, at: int) -> Path:
        return self.box.directory / f"p{at}.pcap"

    def _captured(self, at: int) -> Iterable[bytes]:
        """Packets of a capture that were not read yet; one that is half written stays."""
        path = self._capture(at)
        since = self._read.get(str(path), CAPTURE_HEAD)
        for octets, place in frames_since(path, since):
            self._read[str(path)] = place
            yield octets
