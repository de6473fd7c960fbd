"""A whole node for `python -m perf.hostway`: the tests' lab, and two ways of its kernel into OVN.

Both are ports of the hosts' switch on br-int, so that packets take the same pipeline: ovn0, which
is the daemon's, and an internal port of OVS's, which the userspace datapath makes as a tap and
polls with its main thread. A container and a guest (testpmd, which answers echo requests) are
reached by either, told apart by the source address.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from dataplane.drivers import processes
from dataplane.model.addr import mac_of_address
from dataplane.ports import DataplaneError
from perf.hostway import AFXDP, TAP
from perf.labrun import iperf_time
from tests.labs import lab as topology
from tests.labs import logical
from tests.labs.guests import TestpmdGuest, sweep_eal
from tests.labs.lab import Lab
from tests.labs.netns import Namespace
from tests.labs.workloads import Workload

PREFIX = "mrhostway"
TCP_PORT = 5201
CONTAINER, GUEST = "c1", topology.TESTPMD[0]
ADDRESS = {CONTAINER: topology.CONTAINERS[CONTAINER], GUEST: topology.TESTPMD[1]}
HOSTS = '\n[hosts]\nnetwork = "100.65.0.0/24"\n'
ROUTER = "100.65.0.1"
TAP_PORT, TAP_ADDRESS, TAP_TABLE = "hosttap0", "100.65.0.200", "99"
ECHO_OCTETS = 1372
"""Of an echo request's payload: with its headers 1400."""

WINDOW = 64
"""Echo requests under way at once."""


@dataclass(slots=True)
class HostwayLab:
    """The lab while it runs."""

    lab: Lab
    guest: TestpmdGuest
    source: dict[str, str]

    def _sending(self, way: str) -> tuple[Namespace, list[str]]:
        """Where echo requests of a way start, and ping's words for its address."""
        if way == CONTAINER:
            return self.lab.containers[CONTAINER], []
        return self.lab.namespace, ["-I", self.source[way]]

    def _run(self, *argv: str, timeout_s: float = 120) -> str:
        return self.lab.namespace.run(*argv, timeout_s=timeout_s)

    def make_tap(self) -> None:
        """The internal port, its port in OVN, and what the kernel needs to send by it."""
        mac = str(mac_of_address(IPv4Address(TAP_ADDRESS)))
        entry = f"{mac} {TAP_ADDRESS}"
        logical.nbctl(
            self.lab.nb, "lsp-add", "millrace-hosts", TAP_PORT,
            "--", "lsp-set-addresses", TAP_PORT, entry,
            "--", "lsp-set-port-security", TAP_PORT, entry,
        )  # fmt: skip
        mtu = json.loads(self._run("ip", "-j", "link", "show", "dev", "ovn0"))[0]["mtu"]
        self.lab.node.vsctl(
            "add-port", "br-int", TAP_PORT,
            "--", "set", "Interface", TAP_PORT, "type=internal", f"mtu_request={mtu}",
            f'mac="{mac}"', f"external_ids:iface-id={TAP_PORT}",
        )  # fmt: skip
        for words in (
            f"address add {TAP_ADDRESS}/32 dev {TAP_PORT}",
            f"link set {TAP_PORT} up",
            f"route add default via {ROUTER} dev {TAP_PORT} onlink table {TAP_TABLE}",
            f"rule add from {TAP_ADDRESS} lookup {TAP_TABLE} priority 99",
        ):
            self._run("ip", *words.split())

    def wait_ready(self) -> None:
        """Each way reaches each workload."""
        for way in (AFXDP, TAP):
            for name in ADDRESS:
                processes.wait_until(
                    lambda way=way, name=name: bool(self.round_trips(way, name, 1)),  # type: ignore[misc]
                    f"{name} answers by the {way}",
                )

    def round_trips(self, way: str, name: str, count: int) -> list[float]:
        """Milliseconds of each echo that was answered, 500 a second."""
        where, words = self._sending(way)
        said = where.run(
            "ping", "-n", "-c", str(count), "-i", "0.002", "-W", "1", *words, ADDRESS[name],
            check=False,
        )  # fmt: skip
        took = [line.split("time=")[1].split()[0] for line in said.splitlines() if "time=" in line]
        return [float(word) for word in took]

    def echoes(self, way: str, count: int) -> float:
        """1000 echo requests a second that the guest answers, WINDOW of them under way."""
        began = time.monotonic()
        where, words = self._sending(way)
        said = where.run(
            "ping", "-n", "-q", "-f", "-l", str(WINDOW), "-c", str(count), "-s", str(ECHO_OCTETS),
            *words, ADDRESS[GUEST], timeout_s=120,
        )  # fmt: skip
        seconds = time.monotonic() - began
        received = next(line for line in said.splitlines() if " received" in line).split(",")[1]
        return int(received.split()[0]) / seconds / 1000

    def tcp(self, way: str, seconds: float, *, to_host: bool) -> float:
        """Gbit/s of one stream between the kernel and the container."""
        said = self._run(
            "iperf3", "-J", "-c", ADDRESS[CONTAINER], "-p", str(TCP_PORT),
            "-t", iperf_time(seconds), "-B", self.source[way], *(["-R"] if to_host else []),
        )  # fmt: skip
        return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9

    @contextmanager
    def ports_come_and_go(self) -> Iterator[None]:
        """Ports are added to and taken from br-int all the time, as pods' are."""
        stop = threading.Event()
        failed: list[str] = []

        def churn() -> None:
            number = 0
            while not stop.is_set():
                name = f"churn{number % 4}"
                number += 1
                try:
                    self.lab.node.vsctl(
                        "add-port", "br-int", name, "--", "set", "Interface", name, "type=internal"
                    )
                    self.lab.node.vsctl("del-port", "br-int", name)
                except DataplaneError as error:
                    failed.append(str(error))
                    return

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failed:
            raise DataplaneError(failed[0])


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample that this share of them does not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(samples: Sequence[float]) -> float:
    """Of round trips; not a number where none was answered."""
    return statistics.median(samples) if samples else float("nan")


@contextmanager
def built(progress: Callable[[str], None], core: int) -> Iterator[HostwayLab]:
    """The lab with everything in it, removed at the end whatever happened."""
    lab = Lab(PREFIX, progress, guests=False)
    work = Workload(GUEST, f"{PREFIX}-{GUEST}", lab.node.cni_socket, "vhost-user")
    guest = None
    try:
        lab.prepare()
        path = lab.dir / "cluster.toml"
        path.write_text(path.read_text(encoding="utf-8") + HOSTS, encoding="utf-8")
        lab.start()
        work.attach()
        guest = TestpmdGuest(GUEST, work.socket, work.mac, lab.dir, core)
        guest.start()
        guest.wait_ready()
        processes.wait_until(lambda: bool(_own(lab)), "ovn0 has its address", timeout_s=60)
        made = HostwayLab(lab, guest, {AFXDP: _own(lab), TAP: TAP_ADDRESS})
        made.make_tap()
        processes.spawn(
            ["iperf3", "-s", "-p", str(TCP_PORT)],
            log=lab.dir / "iperf3.log",
            netns=lab.containers[CONTAINER].name,
        )
        made.wait_ready()
        yield made
    finally:
        if guest is not None:
            guest.stop()
        sweep_eal(lab.dir, GUEST)
        lab.remove()


def _own(lab: Lab) -> str:
    """ovn0's address; "" while there is none."""
    said = lab.namespace.run("ip", "-j", "-4", "address", "show", "dev", "ovn0", check=False)
    found = [one["local"] for link in json.loads(said or "[]") for one in link.get("addr_info", ())]
    return str(found[0]) if found else ""
