"""Two real chassis of one OVN, each an OVS on dummy devices, with a Geneve tunnel between them.

The devices of the tunnels' network are joined by a socket (netdev-dummy's streams), so that what
one chassis encapsulates the other decapsulates: no kernel, no privilege.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.labs.ovnsandbox import OvnSandbox, wait_until
from tests.labs.packetlab import PacketLab, Station
from tests.labs.packets import frames, number_of

PHYSNET, BRIDGE, UNDERLAY = "phys", "br-phys", "br-tun"
WIRE = "wire"


@dataclass
class Chassis:
    """One of them: its OVS (whose databases are the first one's), its workloads and its wire."""

    box: OvnSandbox
    lab: PacketLab

    @property
    def wire(self) -> Path:
        """What came out on the provider network."""
        return self.box.directory / f"{WIRE}.pcap"

    def from_wire(self, octets: bytes) -> None:
        """Let a frame come in from the provider network."""
        self.box.appctl("netdev-dummy/receive", WIRE, octets.hex())

    def from_pod(self, station: Station, octets: bytes) -> None:
        """Let a workload send a frame."""
        self.box.appctl("netdev-dummy/receive", self._device(station), octets.hex())

    def to_pod(self, station: Station) -> Path:
        """What came out at a workload."""
        return self.box.directory / f"{self._device(station)}.pcap"

    def _device(self, station: Station) -> str:
        return f"p{self.lab.stations.index(station)}"


def numbered(path: Path, number: int) -> list[bytes]:
    """The frames of a capture that carry a packet's number."""
    return [one for one in frames(path) if number_of(one) == number]


def beside(box: OvnSandbox, name: str) -> OvnSandbox:
    """A place for another chassis of the same databases."""
    directory = box.directory / name
    directory.mkdir()
    for socket in ("nb.sock", "sb.sock"):
        (directory / socket).symlink_to(box.directory / socket)
    return OvnSandbox(directory)


def start_pair(first: OvnSandbox, second: OvnSandbox) -> None:
    """Start the chassis n1 and n2, with a tunnel between them and a wire at each."""
    socket = first.directory / "underlay.sock"
    macs: list[str] = []
    for at, (box, end) in enumerate(((first, "pstream=punix"), (second, "stream=unix")), 1):
        address = f"192.0.2.{at}"
        box.start_chassis(f"n{at}", address, PHYSNET, BRIDGE, tunnels=True)
        box.vsctl(
            "add-br", UNDERLAY,
            "--", "add-port", UNDERLAY, "link", "--", "set", "Interface", "link", "type=dummy",
            f"options:{end}:{socket}",
            "--", "add-port", BRIDGE, WIRE, "--", "set", "Interface", WIRE, "type=dummy",
            f"options:tx_pcap={box.directory / WIRE}.pcap",
        )  # fmt: skip
        box.appctl("netdev-dummy/ip4addr", UNDERLAY, f"{address}/24")
        box.appctl("ovs/route/add", f"{address}/24", UNDERLAY)
        macs.append(box.vsctl("get", "Interface", UNDERLAY, "mac_in_use").strip().strip('"'))
    # The first packet would be spent on asking.
    for box, other in ((first, 2), (second, 1)):
        box.appctl("tnl/neigh/set", UNDERLAY, f"192.0.2.{other}", macs[other - 1])

    def known() -> bool:
        names = first.sbctl("--bare", "--columns=name", "list", "Chassis").split()
        return {"n1", "n2"} <= set(names)

    wait_until("both chassis are known", known)
