"""Wanted rates as the policers' rows: which burst, which units, which bounds.

Both kinds of policer are token buckets that count IP packets (the frame without its 14 octets of
Ethernet): OVS's on vhost-user ports, because netdev-dpdk takes the Ethernet header off before it
asks DPDK's meter, and our own on pods' veths, to be equal to them.

The burst is the bucket's depth. Too shallow, and what nobody collected while the sender or the
policer's own thread did not run is lost: with 20 ms and both on shared cores, a limit came out
11 % too low though 1.9 times as much was offered. Too deep, and a window begins with more than
its share. `BURST_MS` of the rate lies between; a packet of the port's MTU has to fit whatever the
rate, or none passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.model.bandwidth import Bandwidth, Limits
from dataplane.model.rows import Bucket, Policer

MIN_RATE = 64_000
"""Bits a second. Below, one packet of 1500 octets is more than MAX_BURST_MS of the rate, and OVS's
unit for what a guest sends, 1 kbit/s, rounds by more than 0.8 %."""

MAX_RATE = 400_000_000_000
"""Bits a second: more than any port here carries; a bucket's numbers fit their 64 bits by far."""

BURST_MS = 100
"""Of the rate, unless the port says otherwise."""

MAX_BURST_MS = 200
"""2 % of a window of 10 s: what a limit may be exceeded by in the first window."""

PACKETS = 10
"""Of the MTU; the least burst where MAX_BURST_MS allows it."""

TAG = 4
"""Octets of a VLAN tag, which a policer counts."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """What the rows make of a wanted rate: both in bits a second."""

    wanted: int
    made: int

    @property
    def error(self) -> float:
        """As a share of what was wanted."""
        return self.made / self.wanted - 1


def burst_bytes(wanted: Bandwidth, mtu: int) -> int:
    """The depth of the bucket [octets]: as asked for, within what can work (see the module)."""
    longest = wanted.rate * MAX_BURST_MS // 8000
    packet = mtu + TAG
    if wanted.burst is not None:
        depth = wanted.burst // 8
    else:
        depth = max(wanted.rate * BURST_MS // 8000, PACKETS * packet)
    return max(min(depth, longest), packet)


def kilobits(bits: int) -> int:
    """The nearest multiple of 1000, at least one: a rate of 0 is no limit to OVS."""
    return max((bits + 500) // 1000, 1)


def policer(limits: Limits, mtu: int) -> Policer | None:
    """The rows of a vhost-user port; None: it has no limit."""
    if limits.send is None and limits.receive is None:
        return None
    kbps = burst_kb = cir = cbs = 0
    if limits.send is not None:
        kbps = kilobits(limits.send.rate)
        # Rounded up: rounded down, a packet of the MTU would not fit.
        burst_kb = -(-burst_bytes(limits.send, mtu) * 8 // 1000)
    if limits.receive is not None:
        cir = limits.receive.rate // 8
        cbs = burst_bytes(limits.receive, mtu)
    return Policer(kbps, burst_kb, cir, cbs)


def bucket(limits: Limits, mtu: int) -> Bucket | None:
    """The row of a pod's veth; None: it has no limit."""
    if limits.send is None and limits.receive is None:
        return None
    rates = [
        (wanted.rate // 8, burst_bytes(wanted, mtu)) if wanted else (0, 0)
        for wanted in (limits.send, limits.receive)
    ]
    return Bucket(*rates[0], *rates[1])


def rounding(wanted: Bandwidth, *, sending: bool) -> Rounding:
    """How far OVS's unit for this direction is from what was asked for."""
    made = kilobits(wanted.rate) * 1000 if sending else wanted.rate // 8 * 8
    return Rounding(wanted.rate, made)


def refusal(wanted: Bandwidth) -> str:
    """Why a rate cannot be; empty if it can."""
    if not MIN_RATE <= wanted.rate <= MAX_RATE:
        return f"{wanted.rate} bit/s is not between {MIN_RATE} and {MAX_RATE}"
    if wanted.burst is not None and wanted.burst <= 0:
        return f"a burst of {wanted.burst} bits lets nothing through"
    return ""
