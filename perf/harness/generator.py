"""What sends packets and counts them: one protocol, whatever is behind it.

`perf/pktgen` (paced), testpmd (as fast as it goes), iperf3 (sockets) and the simulated device of
the tests all answer `start` with `Counts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from dataplane.ports import DataplaneError

MIN_FRAME, MAX_FRAME = 64, 9018
"""Octets of a frame with its FCS."""

MAX_FLOWS = 1_000_000
MOST_PPS = 1e9
"""As perf/pktgen has it: more than any Ethernet carries of the smallest frames."""

IMIX = ((64, 7), (594, 4), (1518, 1))
"""The simple mix: frame sizes and how many of each in twelve."""


class HarnessError(DataplaneError):
    """A measurement that cannot be, with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent. `rate_pps` None: as much as the path takes; `sizes`: (octets, share)."""

    rate_pps: float | None = None
    sizes: tuple[tuple[int, int], ...] = ((64, 1),)
    flows: int = 1
    protocol: str = "udp"

    def __post_init__(self) -> None:
        """Refuse what no generator can send.

        Raises:
            HarnessError: a rate, size or number of flows outside what there is.
        """
        if self.rate_pps is not None and not 0 < self.rate_pps <= MOST_PPS:
            msg = f"rate {self.rate_pps:g} packets/s: more than 0, and {MOST_PPS:,.0f} at most"
            raise HarnessError(msg)
        if not self.sizes:
            msg = "no frame size"
            raise HarnessError(msg)
        for size, share in self.sizes:
            if not MIN_FRAME <= size <= MAX_FRAME:
                msg = f"frames of {size} octets: Ethernet carries {MIN_FRAME} to {MAX_FRAME}"
                raise HarnessError(msg)
            if share < 1:
                msg = f"a share of {share} of frames of {size} octets: at least 1"
                raise HarnessError(msg)
        if not 1 <= self.flows <= MAX_FLOWS:
            msg = f"{self.flows} flows: 1 to {MAX_FLOWS:,}"
            raise HarnessError(msg)


@dataclass(frozen=True, slots=True)
class Counts:
    """One trial of a generator. Latencies are counts by upper bound [ns] of a bucket.

    `away_s`: how long the sender had no processor; `refused_s`: how long the path did not take what
    was due. Who does not tell has 0.
    """

    tx: int
    rx: int
    seconds: float
    reordered: int = 0
    latency_ns: tuple[tuple[int, int], ...] = field(default=())
    away_s: float = 0.0
    refused_s: float = 0.0

    @property
    def lost(self) -> int:
        """Sent and not received; never below zero, though duplicates may outnumber."""
        return max(0, self.tx - self.rx)

    @property
    def loss_ratio(self) -> float:
        """Of those sent; all, when nothing could be sent."""
        return self.lost / self.tx if self.tx else 1.0

    @property
    def pps(self) -> float:
        """Packets received each second."""
        return self.rx / self.seconds if self.seconds else 0.0


class Generator(Protocol):
    """Sends traffic of a given rate, sizes and flows, and counts what comes back."""

    @property
    def name(self) -> str:
        """For results and messages."""

    @property
    def paced(self) -> bool:
        """Whether it keeps a rate; one that does not refuses a rate."""

    def start(self, traffic: Traffic, duration_s: float) -> Counts:
        """One trial.

        Raises:
            DataplaneError: it cannot send that, or nothing came back.
        """
