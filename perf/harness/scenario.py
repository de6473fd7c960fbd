"""What a scenario is, as data: a path, its traffic, and what is measured of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from perf.harness.generator import HarnessError, Traffic
from perf.harness.results import Metric
from perf.harness.verdict import Better


class Carrier(StrEnum):
    """What kind of port the frames of a path go through."""

    VHOST = "vhost-user"
    LARGE = "vhost-user, MTU 9000"
    TUNNEL = "vhost-user through a tunnel"
    AF_XDP = "af_xdp"
    VETH = "veth"
    PROGRAM = "XDP test run"
    CONTROL = "no packets"
    GIVEN = "whatever is between the given ends"


CARRIES: Mapping[Carrier, int] = {
    Carrier.VHOST: 1518,
    Carrier.LARGE: 9018,
    Carrier.TUNNEL: 1468,
    Carrier.AF_XDP: 3518,
    Carrier.VETH: 3518,
    Carrier.PROGRAM: 3518,
    Carrier.CONTROL: 9018,
    Carrier.GIVEN: 9018,
}
"""The largest frame [octets with FCS].

XDP of OVS 3.1 and DPDK 22.11 takes single buffers; the vhost-user ports of most labs have an MTU of
1500, and tunnels take 50 octets of it.
"""

CYCLES = Metric("cycles/packet", Better.LOWER, "cycles of the PMD for a packet")
PASSES = Metric("passes/packet", Better.LOWER, "passes through the datapath for a packet")
MPPS = Metric("Mpps", Better.HIGHER, "packets forwarded")
KRPS = Metric("1000/s", Better.HIGHER, "round trips in a closed loop")
GBITS = Metric("Gbit/s", Better.HIGHER, "one TCP stream")
NS = Metric("ns/packet", Better.LOWER, "processor time for a packet")
DELIVERED = Metric("%", Better.HIGHER, "of the rate asked for, what came through in time")
AT_RATE = {
    f"us{percent}_100": Metric("us", Better.LOWER, f"latency, {percent}th percentile, at the rate")
    for percent in (50, 99)
}
EIGHT = Metric("Gbit/s", Better.HIGHER, "eight TCP streams")
DATAGRAMS = Metric("1000/s", Better.HIGHER, "datagrams that came through, as many as are sent")
INSIDE = {
    f"kernel{percent}": Metric("us", Better.LOWER, f"inside the kernel, {percent}th percentile")
    for percent in (50, 99)
}
"""At half the rate, from one device of the router to the other (perf.kerneltrace)."""

RTT = Metric("ms", Better.LOWER, "round trip, mean")
MAP_MS = Metric("ms", Better.LOWER, "change of a service, from the transaction to the BPF map")
NORTHD_MS = Metric("ms", Better.LOWER, "the same change, until ovn-northd is done")


INSTALLED_MS = Metric("ms", Better.LOWER, "a new port, from its row until OVN has installed it")
START_S = Metric("s", Better.LOWER, "start of the node daemon until it has converged")
START_CPU = Metric("s", Better.LOWER, "processor time of that start")
CALL_NS = Metric("ns/call", Better.LOWER, "a call from Python, the interpreter's part included")
ECHO_MS = Metric("ms", Better.LOWER, "round trip, median")
ECHOES = Metric("1000/s", Better.HIGHER, "echoes of 1400 octets, 64 under way")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One path with one traffic. `way`: what its lab calls it; `quick`: part of `--quick`.

    `loads`: in percent of PDR, at which latency is measured. `kernel`: latency inside the kernel is
    looked at, too.
    """

    name: str
    title: str
    lab: str
    way: str
    carrier: Carrier
    topology: str
    primary: str
    metrics: Mapping[str, Metric]
    traffic: Traffic = field(default_factory=Traffic)
    quick: bool = True
    loads: tuple[int, ...] = ()
    kernel: bool = False

    def checked(self, size: int | None = None, rate_pps: float | None = None) -> Scenario:
        """The same with frames of another size, and at a rate instead of a search for one.

        Raises:
            HarnessError: the path does not carry these frames, or its lab sends one size only, or
                keeps no rate.
        """
        sized = self._sized(size)
        return sized if rate_pps is None else sized.at(rate_pps)

    @property
    def in_stack(self) -> bool:
        """Whether its frames go through the kernel's stack, with a paced generator around it."""
        kernels = self.way.startswith(("nftables", "iptables"))
        return kernels and self.lab in ("served", "served-sizes")

    def looked_at(self) -> Scenario:
        """The same with latency inside the kernel, where frames go through its stack."""
        if not self.in_stack:
            return self
        return replace(self, kernel=True, metrics={**self.metrics, **INSIDE})

    def at(self, rate_pps: float) -> Scenario:
        """The same at a rate.

        Raises:
            HarnessError: there is no such rate, or its sender keeps none.
        """
        traffic = replace(self.traffic, rate_pps=rate_pps)
        if not self.loads:
            msg = f"{self.name}: its sender keeps no rate; `millrace perf list` says whose does"
            raise HarnessError(msg)
        kept = {name: self.metrics[name] for name in ("cycles", "passes", "ns")
                if name in self.metrics}  # fmt: skip
        metrics = {"delivered": DELIVERED, **kept, **AT_RATE}
        return replace(self, traffic=traffic, primary="delivered", metrics=metrics)

    def _sized(self, size: int | None) -> Scenario:
        if size is None:
            return self
        traffic = replace(self.traffic, sizes=((size, 1),))
        most = CARRIES[self.carrier]
        if size > most:
            msg = (
                f"{self.name}: frames of {size} octets over {self.carrier.value}, which carries "
                f"{most} at most"
            )
            raise HarnessError(msg)
        if self.lab not in ("vhost", "paced") and traffic.sizes != self.traffic.sizes:
            msg = f"{self.name}: its sender has frames of {self.traffic.sizes[0][0]} octets only"
            raise HarnessError(msg)
        return replace(self, traffic=traffic)
