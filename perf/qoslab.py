"""OVS-DPDK with two ports to hold to a rate: guests, containers with ports, or on the trunk.

The frames go one way, from the first port to the second, so what the first sends and what the
second receives are the same frames; one is limited at a time, by the same table as on a node.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.netns import inside_named
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsqos import QosTable
from dataplane.drivers.podbuckets import BucketTable
from dataplane.drivers.processes import NETNS_DIR
from dataplane.model.bandwidth import Limits
from dataplane.model.names import OWNER, OWNER_KEY
from dataplane.plan.qos import bucket, policer
from dataplane.ports import DataplaneError, Failure
from perf.compiled import program
from perf.qostrunk import NAMES, Trunk
from perf.vhostlab import MACS, PORTS, VhostLab

SOURCE = Path(__file__).with_name("qosload.c")
MTU = 1500
VM, CONTAINER, TRUNK = KINDS = ("vm", "container", "trunk")
LINKS = ("mrp0000000000a1", "mrp0000000000a2")
"""The veths' ends at the host; those of the containers end in `PEERS`."""

PEERS = ("mrq0000000000a1", "mrq0000000000a2")


@dataclass(frozen=True, slots=True)
class Counts:
    """What qosload counted in one run; octets of frames without their check sequence."""

    seconds: float
    sent: int
    received: int
    octets: int
    strangers: int


@dataclass(slots=True)
class QosLab:
    """The lab while it runs, with ports of one kind."""

    lab: VhostLab
    ovs: Ovs
    kind: str = VM
    trunk: Trunk | None = None
    _load: subprocess.Popen[str] | None = field(default=None)

    def limit(self, limits: Limits, *, sending: bool) -> None:
        """Hold the first port's sending, or the second's receiving, to a rate; `Limits()`: none.

        Raises:
            DataplaneError: OVS did not take it.
        """
        number = 0 if sending else 1
        failures: Mapping[str, Failure]
        if self.trunk is not None:
            failures = self.trunk.hold(number, limits)
        elif self.kind == CONTAINER:
            failures = inside_named(self.lab.name, lambda: _hold(LINKS[number], limits))
        else:
            table = QosTable(self.ovs)
            row = policer(limits, MTU)
            table.delete(list(table.observe()))
            failures = table.upsert([(PORTS[number], row)]) if row else {}
        if failures:
            raise DataplaneError(str(failures))

    def run(self, size: int, pps: int, seconds: float) -> Counts:
        """Offer frames of a size at a rate (0: all the device takes) for so long.

        Raises:
            DataplaneError: the guests' program ended.
        """
        assert self._load is not None
        assert self._load.stdin is not None
        self._load.stdin.write(f"{size} {pps} {int(seconds * 1000)}\n")
        self._load.stdin.flush()
        return Counts(**self._answer())

    def start(self) -> None:
        """Start both guests, which are one process."""
        space, peers = (self.lab.name, PEERS) if self.trunk is None else (self.lab.pods, NAMES)
        devices = [f"--vdev=net_af_packet{n},iface={peer}" for n, peer in enumerate(peers)]
        if self.kind == VM:
            devices = self._virtio()
        with (self.lab.rundir / "qosload.log").open("wb") as log:
            self._load = subprocess.Popen(  # noqa: S603 - our own program
                [
                    "nsenter", f"--net={NETNS_DIR / space}",
                    str(program(SOURCE)), "--lcores", f"0@{self.lab.guest_core}", "--no-pci",
                    "--in-memory", "--single-file-segments", "--socket-mem", "256",
                    f"--file-prefix={self.lab.name}-guests", *devices,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=processes.clean_environment(),
            )  # fmt: skip
        self._answer()
        processes.wait_until(lambda: self.run(64, 10_000, 0.2).received > 0, "frames get through")

    def _virtio(self) -> list[str]:
        return [
            f"--vdev=net_virtio_user{number},path={self.lab.rundir}/{port}.sock,server=1,queues=1,"
            f"mac={mac}"
            for number, (port, mac) in enumerate(zip(PORTS, MACS, strict=True))
        ]

    def stop(self) -> None:
        """End them."""
        if self._load is not None:
            self._load.kill()
            self._load.communicate()
            self._load = None

    def _answer(self) -> dict[str, int]:
        assert self._load is not None
        assert self._load.stdout is not None
        # EAL's own lines are no objects.
        for line in self._load.stdout:
            if line.startswith("{"):
                found: dict[str, int] = json.loads(line)
                return found
        msg = f"qosload ended:\n{processes.tail(self.lab.rundir / 'qosload.log')}"
        raise DataplaneError(msg)


def _hold(link: str, limits: Limits) -> Mapping[str, Failure]:
    table = BucketTable()
    table.delete(list(table.observe()))
    row = bucket(limits, MTU)
    return table.upsert([(link, row)]) if row else {}


def _add_links(lab: VhostLab) -> None:
    """Two containers' veths as a node makes them, on a bridge of their own."""
    words = [f"--db={lab.database}", "--timeout=30", "--", "add-br", "br1"]
    words += ["--", "set", "Bridge", "br1", "datapath_type=netdev"]
    for link, peer in zip(LINKS, PEERS, strict=True):
        add = ["ip", "link", "add", link, "type", "veth", "peer", "name", peer]
        processes.run(add, netns=lab.name)
        for name in (link, peer):
            processes.run(["ip", "link", "set", name, "up"], netns=lab.name)
            processes.run(["ethtool", "-K", name, "tx", "off"], netns=lab.name)
        words += ["--", "add-port", "br1", link]
    processes.run(["ovs-vsctl", *words])
    manage = f"unix:{lab.rundir}/br1.mgmt"
    processes.run(["ovs-ofctl", "del-flows", manage])
    for here, there in (LINKS, LINKS[::-1]):
        flow = f"in_port={here},actions=output:{there}"
        processes.run(["ovs-ofctl", "--names", "add-flow", manage, flow])


@contextmanager
def built(lab: VhostLab, kinds: Sequence[str]) -> Iterator[Mapping[str, QosLab]]:
    """OVS with two ports of each kind, removed at the end whatever happened."""
    made: dict[str, QosLab] = {}
    trunk: Trunk | None = None
    try:
        lab.build()
        if VM in kinds:
            lab.connect_by_flows()
            words = [f"--db={lab.database}", "--timeout=30"]
            for port in PORTS:
                words += ["--", "set", "Port", port, f"external_ids:{OWNER_KEY}={OWNER}"]
            processes.run(["ovs-vsctl", *words])
        if CONTAINER in kinds:
            _add_links(lab)
        if TRUNK in kinds:
            trunk = Trunk(lab, MTU)
            trunk.build()
        ovs = Ovs(lab.database)
        ovs.start()
        try:
            ovs.wait_synced(10)
            made = {
                kind: QosLab(lab, ovs, kind, trunk if kind == TRUNK else None) for kind in kinds
            }
            yield made
        finally:
            for one in made.values():
                one.stop()
            ovs.stop()
    finally:
        if trunk is not None:
            trunk.close()
        lab.remove()
