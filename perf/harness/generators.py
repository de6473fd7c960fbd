"""The generators behind the protocol: our paced one, iperf3 over sockets, a loop of testpmd's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from perf.harness.generator import Counts, HarnessError, Traffic
from perf.pktgen.driver import Load, Pktgen

MOST_STREAMS = 128
"""Of iperf3."""

_HEADERS = 14 + 20 + 8 + 4
"""Ethernet with its check sequence, IPv4, UDP: what of a frame is no payload."""

Run = Callable[..., str]
"""Runs a command where the client is and gives its output; takes check and timeout_s."""


@dataclass(frozen=True, slots=True)
class Paced:
    """`perf/pktgen`: keeps every rate that its processor can, and times each frame."""

    pktgen: Pktgen
    ports: tuple[int, int] = (0, 1)
    macs: tuple[str, str] = ("", "")
    relays: tuple[tuple[int, int], ...] = ()
    target: tuple[str, int] = ("", 0)
    source: str = ""
    drain_ms: int = 100

    @property
    def name(self) -> str:
        """For results and messages."""
        return "pktgen"

    @property
    def paced(self) -> bool:
        """Yes."""
        return True

    def start(self, traffic: Traffic, duration_s: float) -> Counts:
        """One trial. A mix goes out size by size, each as often as its share says.

        Raises:
            DataplaneError: the generator refuses it, or ended.
        """
        sizes = tuple(size for size, share in traffic.sizes for _ in range(share))
        told = self.pktgen.run(
            Load(
                traffic.rate_pps or 0,
                duration_s,
                sizes=sizes,
                flows=traffic.flows,
                tx=self.ports[0],
                rx=self.ports[1],
                src_mac=self.macs[0],
                dst_mac=self.macs[1],
                src_ip=self.source,
                dst_ip=self.target[0],
                dst_port=self.target[1],
                relays=self.relays,
                drain_ms=self.drain_ms,
            )
        )
        delays = tuple((round(end), count) for end, count in told.delay)
        return Counts(
            told.sent, told.received, told.seconds, told.reordered, delays,
            told.away_ns / 1e9, told.refused_ns / 1e9,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Iperf:
    """iperf3 with UDP, from a container or guest: counts what a server's sockets got.

    It paces by sleeping a millisecond at a time, so it is told apart from a paced generator: bursts
    of it overflow queues that an even stream would not.
    """

    run: Run
    address: str
    port: int = 5201
    name: str = field(default="iperf3")

    @property
    def paced(self) -> bool:
        """Not evenly enough for a search."""
        return False

    def start(self, traffic: Traffic, duration_s: float) -> Counts:
        """One trial; a rate is kept on average.

        Raises:
            DataplaneError: a mix, too many flows, or iperf3 says why not.
        """
        if len(traffic.sizes) > 1:
            msg = "iperf3 sends frames of one size; pktgen sends mixes"
            raise HarnessError(msg)
        if traffic.flows > MOST_STREAMS:
            msg = f"iperf3 has {MOST_STREAMS} streams at most, not {traffic.flows}; use pktgen"
            raise HarnessError(msg)
        payload = traffic.sizes[0][0] - _HEADERS
        rate = 0 if traffic.rate_pps is None else traffic.rate_pps * payload * 8 / traffic.flows
        said = self.run(
            "iperf3", "-c", self.address, "-p", str(self.port), "-u", "-J", "-l", str(payload),
            "-b", f"{rate:.0f}", "-P", str(traffic.flows), "-t", f"{max(duration_s, 1.0):.0f}",
            check=False, timeout_s=duration_s + 30,
        )  # fmt: skip
        return iperf_counts(said)


def iperf_counts(said: str) -> Counts:
    """From iperf3's JSON.

    Raises:
        HarnessError: it has an error in it, or is none.
    """
    try:
        told = json.loads(said)
    except ValueError as error:
        msg = f"iperf3 prints no JSON: {said[:200]!r}"
        raise HarnessError(msg) from error
    if "error" in told or "sum" not in told.get("end", {}):
        msg = f"iperf3: {told.get('error', 'it counted nothing')}"
        raise HarnessError(msg)
    total = told["end"]["sum"]
    streams = [one["udp"] for one in told["end"]["streams"]]
    return Counts(
        int(total["packets"]),
        int(total["packets"]) - int(total["lost_packets"]),
        float(total["seconds"]),
        sum(int(one.get("out_of_order", 0)) for one in streams),
    )


@dataclass(frozen=True, slots=True)
class Loop:
    """testpmd's closed loop: a fixed number of packets goes round, as fast as the path takes them.

    `turned`: how many have gone round so far, by the counter of whoever passes them on.
    """

    turned: Callable[[], int]
    name: str = field(default="testpmd")

    @property
    def paced(self) -> bool:
        """No: testpmd cannot."""
        return False

    def start(self, traffic: Traffic, duration_s: float) -> Counts:
        """Count for so long.

        Raises:
            HarnessError: a rate is asked for, or nothing goes round.
        """
        if traffic.rate_pps is not None:
            msg = f"testpmd sends as fast as it can, not {traffic.rate_pps:g} packets/s; use pktgen"
            raise HarnessError(msg)
        first, began = self.turned(), time.monotonic()
        time.sleep(duration_s)
        count, took = self.turned() - first, time.monotonic() - began
        if count <= 0:
            msg = f"nothing went round in {took:.1f} s"
            raise HarnessError(msg)
        return Counts(count, count, took)
