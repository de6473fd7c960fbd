"""From the JSON of each benchmark to verdicts: which ratios have bounds, and why these. Pure.

A bound is not what was measured once, but what the design promises, with room for the machine:
where the measured ratio is 1.2, it may be 2. Samples of a ratio are the samples measured, each by
the median of the baseline.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable
from typing import Any

from perf.verdicts import Verdict, ratios

Json = Any
Judge = Callable[[Json], list[Verdict]]


def judged(judge: Judge, text: str) -> list[Verdict] | str:
    """The verdicts, or why what a benchmark printed cannot be judged."""
    try:
        return judge(json.loads(text))
    except (KeyError, IndexError, StopIteration, ValueError, TypeError) as error:
        return f"its JSON is not as expected: {error!r}"


_XDP = (
    # packet, flows, services in turn, at most so many times the floor
    ("established", 1, False, 1.6),
    ("reply", 1, False, 1.4),
    ("new, one tuple again and again", 1, False, 8.0),
    ("new, each another tuple", 65_536, False, 8.0),
    ("of no service", 1, False, 1.0),
    ("established", 65_536, False, 7.0),
    # A microsecond where the floor takes 42 ns.
    ("new, refused by a full table", 65_536, False, 24.0),
)
_SIX_TO_FOUR = 1.3
_PATHS = ("established", "reply", "new, one tuple again and again")


def xdp(result: Json) -> list[Verdict]:
    """Times the floor: one look-up in a hash map, destination and checksums, beside each sample."""
    rows = result["rows"]
    main = rows[0]["services"] or max(row["services"] for row in rows[2:8])

    def found(version: int, name: str, flows: int = 1, services: int = 0, **more: Any) -> Json:
        wanted = {"version": version, "name": name, "flows": flows, "uniform": False}
        wanted |= {"services": services or main, "protocol": "tcp"} | more
        if name == "of no service":
            wanted["protocol"] = ""
        return next(r for r in rows if all(r[key] == value for key, value in wanted.items()))

    verdicts = []
    for name, flows, _, bound in _XDP:
        for version in (4, 6):
            row = found(version, name, flows)
            many = f", {flows:,} flows" if flows > 1 else ""
            claim = f"XDP, {name}{many}, IPv{version}"
            verdicts.append(Verdict(claim, tuple(row["ratios"]), bound, "the floor"))
    for name in _PATHS:
        four, six = found(4, name), found(6, name)
        samples = ratios(six["ratios"], four["ratios"])
        verdicts.append(Verdict(f"XDP, {name}, IPv6", samples, _SIX_TO_FOUR, "IPv4"))
    for version in (4, 6):
        one = found(version, "established", services=1)
        all_of = max(row["services"] for row in rows)
        hot = found(version, "established", services=all_of)
        claim = f"XDP, one service of {all_of:,}, IPv{version}"
        verdicts.append(Verdict(claim, ratios(hot["ratios"], one["ratios"]), 1.1, "one of one"))
        turn = next(
            r
            for r in rows
            if r["uniform"] and (r["version"], r["name"]) == (version, "established")
        )
        claim = f"XDP, {turn['services']:,} services in turn, IPv{version}"
        verdicts.append(Verdict(claim, ratios(turn["ratios"], one["ratios"]), 2.0, "one of one"))
    return verdicts


def vhost(result: Json) -> list[Verdict]:
    """OVN's pipeline may cost cycles, but no second pass through the datapath."""
    trials = {one["name"]: one["trials"] for one in result["scenarios"]}
    flows, ovn = trials["port-to-port flows"], trials["OVN logical switch"]

    def of(rows: Json, field: str) -> list[float]:
        return [float(row[field]) for row in rows]

    cycles = "cycles_per_packet"
    return [
        Verdict(
            "vhost-user, OVN switch, cycles/packet",
            ratios(of(ovn, cycles), of(flows, cycles)),
            1.5,
            "two OpenFlow rules from port to port",
        ),
        Verdict(
            "vhost-user, OVN switch, passes/packet",
            tuple(of(ovn, "passes_per_packet")),
            1.05,
            "one: no recirculation, no conntrack",
        ),
    ]


_PEERS = (
    # sink, flows, peer, at how many services, our time at most so much of theirs
    ("xsk", "256 established", "nftables", None, 1 / 3),
    ("skb", "256 established", "nftables", None, 1 / 2),
    ("socket", "256 established", "nftables", None, 1 / 2),
    ("xsk", "each a new flow", "nftables", None, 1 / 5),
    ("socket", "each a new flow", "nftables", None, 1 / 5),
    ("xsk", "each a new flow", "iptables", 10_000, 1 / 100),
    ("socket", "each a new flow", "iptables", 10_000, 1 / 100),
)


def peers(result: Json) -> list[Verdict]:
    """Ours by the peer's median, at the same number of services, in the same sink.

    By the peer with each set of rules that was measured: the verdict says which.
    """
    keys = ("sink", "flows", "name", "services", "rules")
    rows = {tuple(r[key] for key in keys): r for r in result["rows"]}
    sizes = sorted({r["services"] for r in result["rows"] if r["services"]})
    told = sorted({r["rules"] for r in result["rows"] if r["rules"]}, reverse=True)
    verdicts = []
    for rules, (sink, flows, peer, only, bound), at in itertools.product(told, _PEERS, sizes):
        ours = rows.get((sink, flows, "Millrace", at, ""))
        theirs = rows.get((sink, flows, peer, at, rules))
        if ours and theirs and only in {None, at}:
            claim = f"{at:,} services, {flows}, into {sink}"
            samples = ratios(ours["samples_ns"], theirs["samples_ns"])
            verdicts.append(Verdict(claim, samples, bound, f"{peer}, {rules} rules"))
    return verdicts


def path(result: Json) -> list[Verdict]:
    """A service against the same backend without one, and against OVN's own load balancer."""
    ways = {way["name"]: way for way in result["ways"]}
    ours, bare, ovn = ways["Millrace"], ways["no service"], ways["OVN"]

    def slower(key: str) -> tuple[float, ...]:
        """How many times longer a bit or a packet takes: 1 / 0.95 is the bound."""
        middle = statistics.median(bare[key])
        return tuple(middle / sample for sample in ours[key])

    cycles = "cycles_per_round_trip"
    return [
        Verdict("whole path, one TCP stream, time", slower("gbit_s"), 1 / 0.95, "no service"),
        Verdict("whole path, 64-byte UDP sender, time", slower("kpps"), 1 / 0.95, "no service"),
        Verdict("whole path, 64-byte closed loop, time", slower("krps"), 1 / 0.95, "no service"),
        Verdict(
            "whole path, OVS cycles a round trip",
            ratios(ours[cycles], ovn[cycles]),
            1.0,
            "OVN's load balancer on the gateway router",
        ),
    ]


_TRUNK_BOUNDS = (("port", 0.5, 1.0), ("bridge", 3.0, 7.0))
"""Time of a stream and of a round trip by the trunk, at most so many times the other way's: half of
an OVS port's, and of a Linux bridge, which checks nothing, what 4 of 12 Gbit/s and 0.05 of 0.007 ms
are."""


def containers(result: Json) -> list[Verdict]:
    """The trunk against an OVS port for each container, and against a Linux bridge."""
    return [one for underlay in result["underlays"] for one in _trunk(underlay)]


def _trunk(underlay: Json) -> list[Verdict]:
    ways = {way["name"]: way for way in underlay["ways"]}
    trunk, found = ways["trunk"], []
    claim = f"containers by the trunk, underlay {underlay['underlay_mtu']}"
    for name, stream, trip in _TRUNK_BOUNDS:
        middle = statistics.median(ways[name]["gbit_s"])
        samples = tuple(middle / sample for sample in trunk["gbit_s"])
        found.append(Verdict(f"{claim}, one TCP stream, time", samples, stream, name))
        trips = ratios(trunk["rtt_ms"], ways[name]["rtt_ms"])
        found.append(Verdict(f"{claim}, round trip", trips, trip, name))
    return found


_EAST_WEST = ((0, 0.5), (10, 1.0))
"""At so many service packets of a hundred, svc0's time at most so much of the switch's."""


def eastwest(result: Json) -> list[Verdict]:
    """What makes svc0 the default: machines that use services little pay little for them."""
    cases = {(c["way"], c["share"]): c for c in result["cases"] if not c["stateful"]}
    found = []
    for share, bound in _EAST_WEST:
        middle = statistics.median(cases["switch", share]["kpps"])
        samples = tuple(middle / sample for sample in cases["svc0", share]["kpps"])
        claim = f"VM to VM, {share} % services by svc0, time"
        found.append(Verdict(claim, samples, bound, "OVN's load balancer on the switch"))
    passes = tuple(cases["svc0", 0]["passes_per_packet"])
    claim = "VM to VM, no services, passes/packet"
    found.append(Verdict(claim, passes, 1.05, "one: no conntrack because of services"))
    return found


_SOCKETS = (
    # what, condition, at most so much of the same call without programs
    ("connect UDP", "miss", 1.3),
    ("connect UDP", "hit", 2.0),
    ("connect UDP", "hit, each in turn", 3.0),
    ("connect UDP", "hit, affinity", 2.0),
    ("ask UDP", "miss", 1.15),
    ("ask UDP", "hit", 1.3),
    ("connect TCP", "miss", 1.15),
    ("connect TCP", "hit", 1.15),
)


def sockets(result: Json) -> list[Verdict]:
    """Calls of a process whose cgroup has the programs, by those of one without."""
    rows = {(row["what"], row["family"], row["condition"]): row for row in result["rows"]}
    return [
        Verdict(
            f"sockets, {what}, {family}, {condition}",
            ratios(
                rows[what, family, condition]["samples_ns"],
                rows[what, family, "none"]["samples_ns"],
            ),
            bound,
            "the same without programs",
        )
        for what, condition, bound in _SOCKETS
        for family in ("IPv4", "IPv6")
    ]


LIMIT_BOUND = 0.05


def qos(result: Json) -> list[Verdict]:
    """How far what arrives is from the limit, of 5 %: of each way, the case that is furthest off.

    Raises:
        ValueError: a way without a case that says anything; the path carried too little.
    """
    ways: dict[tuple[str, bool], list[Json]] = {}
    for case in result["cases"]:
        ways.setdefault((case["kind"], case["sending"]), []).append(case)
    found = []
    for (kind, sending), cases in ways.items():
        said = [case for case in cases if case["judged"]]
        # Of none there is no worst: that is a ValueError.
        worst = max(said, key=lambda case: abs(case["ratio"] - 1))
        at = f"{worst['rate'] / 1e6:g} Mbit/s at {worst['size']}"
        claim = f"limits, {kind} {'sends' if sending else 'receives'}, worst of {len(said)}: {at}"
        samples = (abs(worst["ratio"] - 1) / LIMIT_BOUND,)
        found.append(Verdict(claim, samples, 1.0, "5 % of the limit"))
    if not found:
        raise ValueError(ways)
    return found


def rebalance(result: Json) -> list[Verdict]:
    """Computed pins against OVS's dealing at start, round by round, as each has its own load.

    Of shares of all load: what a packet costs, which other work on the machine changes from one
    way to the next, drops out.
    """
    found = []
    for what, claim in (
        ("share", "busiest PMD thread's share of all load"),
        ("share_variance", "variance of PMD threads' shares"),
    ):
        ways: dict[str, list[float]] = {}
        for sample in result["samples"]:
            # Loads are whole percents: a variance below one tells nothing from nothing.
            ways.setdefault(sample["way"], []).append(max(sample[what], 1.0))
        for way in ("roundrobin", "cycles"):
            rounds = zip(ways["computed"], ways[way], strict=True)
            samples = tuple(ours / theirs for ours, theirs in rounds)
            found.append(Verdict(f"{claim}, computed pins", samples, 1.0, f"{way} at start"))
    return found


_HOSTWAY = (
    # figure, whether less is better, ovn0 at most so many times as bad as the tap
    ("container_rtt_ms", True, 1.5),
    ("guest_rtt_ms", True, 1.5),
    # The main thread is at the ports then, and the tap is its business.
    ("churn_p99_ms", True, 1.0),
    ("tcp_out_gbit_s", False, 1.5),
    ("tcp_in_gbit_s", False, 1.5),
)


def hostway(result: Json) -> list[Verdict]:
    """The node's own way to workloads, by a PMD thread or by OVS's main thread."""
    found = []
    for key, less, bound in _HOSTWAY:
        both = result["samples"][key]
        ours, tap = (both["ovn0"], both["tap"]) if less else (both["tap"], both["ovn0"])
        samples = ratios(ours, tap)
        found.append(Verdict(f"the host's way, {key}", samples, bound, "a tap"))
    return found
