"""A network that a user's manifests make, in a real OVN, and its packets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.network.settings import NetSettings
from tests.labs.manifests import engine_of, gateways, stations
from tests.labs.nbrows import put
from tests.labs.ovnsandbox import OvnSandbox, wait_until
from tests.labs.packetlab import PacketLab, Station
from tests.labs.packets import Packet, frame, frames, number_of


@dataclass
class Network:
    """What the objects made, on a chassis, and its packets."""

    box: OvnSandbox
    lab: PacketLab
    there: dict[str, Station]
    number: int = 0

    def passes(self, source: str, target: str, version: int = 4, protocol: str = "UDP") -> bool:
        """Whether a packet comes out at its target and its answer at its source."""
        one, other = self.there[source], self.there[target]
        self.number += 2
        packet = Packet(
            self.number, one.address(version), other.address(version), protocol, 3000, 53
        )
        found = {port for number, port in self.lab.send([(one, other, packet)])
                 if number == packet.number}  # fmt: skip
        assert found <= {target}
        answer = packet.back(self.number + 1)
        return bool(found) and self.lab.send([(other, one, answer)]) == {(answer.number, source)}

    def capture(self, port: str) -> Path:
        """What came out at a port."""
        return self.box.directory / f"{self._device(port)}.pcap"

    def give(self, port: str, octets: bytes) -> None:
        """Let whoever is behind a port send a frame."""
        self.box.appctl("netdev-dummy/receive", self._device(port), octets.hex())

    def reached(self, source: str, octets: bytes) -> set[str]:
        """The ports that a frame with a number comes out of."""
        self.give(source, octets)
        # Packets of a device keep their order: this one's barrier is the first one's, too.
        self.number += 2
        one = self.there[source]
        self.lab.send([(one, None, Packet(self.number, one.address(4), "192.0.2.99", "UDP", 1, 1))])
        number = number_of(octets)
        return {
            port
            for port in self.there
            if any(number_of(one) == number for one in frames(self.capture(port)))
        }

    def routed(self, source: str, target: str, protocol: str = "UDP", version: int = 4) -> set[str]:
        """The ports that a packet to an address behind the router comes out of."""
        one = self.there[source]
        self.number += 2
        packet = Packet(self.number, one.address(version), target, protocol, 3000, 53)
        return self.reached(source, frame(one.mac, self.lab.router_macs[one.switch], packet))

    def _device(self, port: str) -> str:
        return f"p{self.lab.stations.index(self.there[port])}"


@contextmanager
def running(objects: str, settings: NetSettings) -> Iterator[Network]:
    """The network of some manifests, all of whose workloads are on one chassis, n1."""
    engine = engine_of(objects, settings)
    assert engine.book.problems == {}, engine.book.problems
    rows = dict(engine.book.rows)
    # Not pytest's tmp_path: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mrv-kub-") as directory:
        box = OvnSandbox(Path(directory))
        try:
            box.start()
            box.start_chassis("n1", "127.0.0.1", "phys", "br-phys")
            listed = ("--bare", "--columns=name", "list", "Chassis")
            wait_until("the chassis is known", lambda: "n1" in box.sbctl(*listed))
            put(box, rows)
            there = stations(rows)
            hosts, macs = gateways(rows)
            lab = PacketLab(box, tuple(there.values()), macs, gateways=hosts)
            lab.attach()
            yield Network(box, lab, there)
        finally:
            box.stop()
