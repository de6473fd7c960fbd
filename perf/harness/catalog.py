"""The scenarios, as data: what `millrace perf list` prints and `millrace perf run` takes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from perf.harness.generator import IMIX, HarnessError, Traffic
from perf.harness.rated import RATED, SELFTEST
from perf.harness.results import Metric
from perf.harness.scenario import (
    CALL_NS,
    CARRIES,
    CYCLES,
    DATAGRAMS,
    ECHO_MS,
    ECHOES,
    EIGHT,
    GBITS,
    INSTALLED_MS,
    KRPS,
    MAP_MS,
    MPPS,
    NORTHD_MS,
    NS,
    PASSES,
    RTT,
    START_CPU,
    START_S,
    Carrier,
    Scenario,
)
from perf.harness.verdict import Better

_DATAPATH = {"cycles": CYCLES, "passes": PASSES, "mpps": MPPS}
_LOOP = "guest (testpmd, virtio-user) - {} - guest; one PMD; 128 packets in flight each way"


def _vhost(name: str, title: str, way: str, middle: str, *, quick: bool = True) -> Scenario:
    topology = _LOOP.format(middle)
    return Scenario(
        name, title, "vhost", way, Carrier.VHOST, topology, "cycles", _DATAPATH, quick=quick
    )


def _vhosts() -> tuple[Scenario, ...]:
    found = [
        _vhost("vm-vm-flows", "VM to VM, two port-to-port flows", "flows", "br0, 2 flows"),
        _vhost("vm-vm-ovn", "VM to VM, OVN switch, no ACL", "ovn", "br-int, OVN switch"),
    ]
    for number in (1, 100):
        for kind, verb in (("stateless", "allow-stateless"), ("stateful", "allow-related")):
            many = "s" if number > 1 else ""
            title = f"VM to VM, OVN switch, {number} {kind} ACL{many}"
            middle = f"br-int, OVN switch, {number} ACL{many} ({verb}) each way"
            found.append(_vhost(f"vm-vm-ovn-{kind}-{number}", title, f"{verb}:{number}", middle))
    big = _vhost("vm-vm-ovn-1518", "VM to VM, OVN switch, 1518 octets", "ovn",
                 "br-int, OVN switch", quick=False)  # fmt: skip
    found.append(replace(big, traffic=Traffic(sizes=((1518, 1),))))
    return tuple(found)


_PATH = {
    "cycles": Metric("cycles/round trip", Better.LOWER, "cycles of the PMD for a round trip"),
    "passes": PASSES,
    "krps": KRPS,
    "gbits": GBITS,
}


def _path(name: str, title: str, way: str) -> Scenario:
    topology = f"client - veth - XDP - AF_XDP - OVS-DPDK, OVN - guest or container; {way}"
    traffic = Traffic(flows=64)
    return Scenario(
        name, title, "path", way, Carrier.AF_XDP, topology, "cycles", _PATH, traffic
    )  # fmt: skip


def _peer(name: str, title: str, way: str, flows: int, quick: bool) -> Scenario:
    topology = f"router in a namespace, one CPU, 1,000 services; {way}; sink: the skb's first hook"
    metrics = {"ns": NS}
    return Scenario(
        name, title, "peers", way, Carrier.VETH, topology, "ns", metrics,
        Traffic(flows=flows), quick,
    )  # fmt: skip


ESTABLISHED_FLOWS, NEW_FLOWS = 256, 1_000_000


def _peers() -> tuple[Scenario, ...]:
    names = (("xdp", "Millrace"), ("nftables", "nftables"), ("iptables", "iptables"))
    found = [
        _peer(
            "out-svc-kernel", "outside to backend, kernel routing alone",
            "kernel, no netfilter/0/established", ESTABLISHED_FLOWS, quick=True,
        )
    ]  # fmt: skip
    for short, name in names:
        for kind, flows in (("established", ESTABLISHED_FLOWS), ("new", NEW_FLOWS)):
            title = f"outside to service, DNAT by {name}, {kind} flows"
            way = f"{name}/1000/{kind}"
            found.append(_peer(f"out-svc-{short}-{kind}", title, way, flows, quick=True))
    return tuple(found)


def _xdp(name: str, case: str) -> Scenario:
    metrics = {
        "ns": NS,
        "floors": Metric("x floor", Better.LOWER, "times a bare look-up and rewrite beside it"),
    }
    topology = "BPF_PROG_TEST_RUN, packet put back each time, 10,000 services"
    title = f"XDP program alone: {case}"
    return Scenario(name, title, "xdp", case, Carrier.PROGRAM, topology, "floors", metrics)


def _east(name: str, title: str, way: str) -> Scenario:
    topology = "guest - OVN switch - guest and back; 10 of 100 packets by a service"
    metrics = {"cycles": CYCLES, "passes": PASSES, "krps": KRPS}
    traffic = Traffic(flows=256)
    return Scenario(
        name, title, "eastwest", way, Carrier.VHOST, topology, "cycles", metrics, traffic
    )  # fmt: skip


def _box(way: str, title: str) -> Scenario:
    metrics = {"gbits": GBITS, "rtt": RTT}
    topology = f"container - {way} - container; iperf3 and ping"
    traffic = Traffic(sizes=((1456, 1),), protocol="tcp")
    return Scenario(
        f"pod-pod-{way}", title, "containers", way, Carrier.VETH, topology, "gbits", metrics,
        traffic,
    )  # fmt: skip


def _hosts() -> tuple[Scenario, ...]:
    ways = (
        ("host-pod", "the node's kernel to a container", "host-container", GBITS),
        ("host-vm", "the node's kernel to a VM", "host-guest", ECHOES),
        ("pod-vm", "container to VM", "container-guest", ECHOES),
    )
    found = []
    for name, title, way, rate in ways:
        metrics = {"rtt": ECHO_MS, "gbits" if rate is GBITS else "krps": rate}
        topology = f"{way.replace('-', ' - OVS-DPDK, OVN - ')}; ping, iperf3"
        traffic = Traffic(sizes=((1418, 1),), protocol="icmp")
        found.append(Scenario(name, title, "host", way, Carrier.AF_XDP, topology, "rtt", metrics,
                              traffic, quick=False))  # fmt: skip
    return tuple(found)


def _sizes() -> tuple[Scenario, ...]:
    found = []
    for short, name in (("xdp", "Millrace"), ("nftables", "nftables"), ("iptables", "iptables")):
        for services in (1, 10_000):
            many = "1 service" if services == 1 else f"{services:,} services"
            made = _peer(
                f"out-svc-{short}-of-{services}", f"outside to service, DNAT by {name}, {many}",
                f"{name}/{services}/established", ESTABLISHED_FLOWS, quick=False,
            )  # fmt: skip
            topology = made.topology.replace("1,000 services", many)
            found.append(replace(made, lab="sizes", topology=topology))
    return tuple(found)


def _calls() -> tuple[Scenario, ...]:
    calls = (("connect", "connect() of UDP"), ("ask", "a datagram and its answer"))
    conditions = (
        ("plain", "without programs", "none"),
        ("other", "no VIP's address", "miss"),
        ("vip", "to a VIP, by connect-time translation", "hit"),
    )
    topology = "a process in a cgroup with the programs, another in none; 1,000 services"
    return tuple(
        Scenario(f"{name}-{short}", f"{what}, {title}", "sockets", f"{name} UDP/{condition}",
                 Carrier.CONTROL, topology, "call_ns", {"call_ns": CALL_NS}, quick=False)
        for name, what in calls
        for short, title, condition in conditions
    )  # fmt: skip


def _controls() -> tuple[Scenario, ...]:
    start = {"start_s": START_S, "cpu_s": START_CPU}
    ways = (
        ("change", "change of a service", {"map_ms": MAP_MS, "northd_ms": NORTHD_MS}),
        ("port", "a port until OVN has installed it", {"installed_ms": INSTALLED_MS}),
        ("start", "start of the node daemon, empty maps", start),
        ("restart", "start of the node daemon after kill -9", start),
    )
    return tuple(
        Scenario(f"control-{way}", f"{title}, 100 ports, 10 services", "control", way,
                 Carrier.CONTROL, "OVN, node daemon, no traffic", next(iter(metrics)), metrics,
                 quick=way == "change")
        for way, title, metrics in ways
    )  # fmt: skip


def _ends() -> tuple[Scenario, ...]:
    ways: tuple[tuple[str, str, str, str, Metric, Traffic], ...] = (
        ("ends-tcp", "one TCP stream", "tcp/1", "gbits", GBITS, Traffic(protocol="tcp")),
        (
            "ends-tcp-8",
            "eight TCP streams",
            "tcp/8",
            "gbits",
            EIGHT,
            Traffic(flows=8, protocol="tcp"),
        ),
        ("ends-udp", "datagrams of 18 octets", "udp", "krps", DATAGRAMS, Traffic()),
        ("ends-echo", "echoes one after the other", "echo", "rtt", RTT, Traffic(protocol="icmp")),
    )
    return tuple(
        Scenario(name, f"two given ends, {title}", "ends", way, Carrier.GIVEN,
                 "--client - whatever is between - --address", metric, {metric: what}, traffic,
                 quick=False)
        for name, title, way, metric, what, traffic in ways
    )  # fmt: skip


SCENARIOS: tuple[Scenario, ...] = (
    *_vhosts(),
    *RATED,
    _path("out-vm", "outside to VM, no service", "no service"),
    _path("out-svc-vm-xdp", "outside to service to VM, by XDP", "Millrace"),
    _path("out-svc-vm-ovn", "outside to service to VM, by OVN's load balancer", "OVN"),
    *_peers(),
    _xdp("xdp-established", "established"),
    _xdp("xdp-reply", "reply"),
    _xdp("xdp-new", "new, one tuple again and again"),
    _east("east-west-svc0", "VM to VM, 10 % by a service through svc0", "svc0"),
    _east("east-west-ovn", "VM to VM, 10 % by OVN's load balancer on the switch", "switch"),
    _box("trunk", "container to container, the trunk"),
    _box("port", "container to container, an OVS port each"),
    _box("bridge", "container to container, a Linux bridge"),
    *_hosts(),
    *_sizes(),
    *_calls(),
    *_controls(),
    *_ends(),
)

AGAINST: Mapping[str, tuple[str, ...]] = {
    "vm-vm-flows": (
        "vm-vm-ovn", "vm-vm-ovn-stateless-1", "vm-vm-ovn-stateful-1", "vm-vm-ovn-stateless-100",
        "vm-vm-ovn-stateful-100",
    ),
    "svc-xdp": ("svc-ovn", "svc-nftables", "svc-iptables"),
    "svc-xdp-new": ("svc-ovn-new", "svc-nftables-new", "svc-iptables-new"),
    **{
        f"svc-xdp-of-{of}{new}": (
            *(f"svc-{kind}-of-{of}{new}" for kind in ("ovn", "nftables", "iptables")),
            *more,
        )
        for new in ("", "-new")
        for of, more in (("1", (f"svc-xdp-of-10000{new}",)), ("10000", ()))
    },
    **{
        f"svc-{kind}-of-1{new}": (f"svc-{kind}-of-10000{new}",)
        for kind in ("ovn", "nftables", "iptables")
        for new in ("", "-new")
    },
    "out-vm": ("out-svc-vm-xdp", "out-svc-vm-ovn"),
    "east-west-svc0": ("east-west-ovn",),
    "connect-plain": ("connect-other", "connect-vip"),
    "ask-plain": ("ask-other", "ask-vip"),
    "out-svc-xdp-of-1": ("out-svc-xdp-of-10000",),
    "out-svc-nftables-of-1": ("out-svc-nftables-of-10000",),
    "out-svc-iptables-of-1": ("out-svc-iptables-of-10000",),
}  # fmt: skip
"""Scenarios of one lab whose ratios are asked for: each on the right to that on the left."""

LABS = (
    "xdp", "sockets", "peers", "sizes", "vhost", "paced", "served", "served-sizes", "path",
    "eastwest", "containers", "host", "control", "ends",
)  # fmt: skip
"""In the order in which they are built: those that need no OVS first."""

SETUP_S: Mapping[str, float] = {
    "xdp": 8, "peers": 8, "vhost": 8, "paced": 10, "served": 15, "served-sizes": 60,
    "path": 20, "eastwest": 20, "containers": 13, "control": 20, "sockets": 5,
    "sizes": 30, "host": 25, "ends": 1,
}  # fmt: skip
"""About what building a lab takes, for the time left; nothing else depends on it."""

TRIAL_S: Mapping[str, tuple[float, float]] = {
    "xdp": (0.3, 0), "peers": (0.3, 0), "vhost": (1.7, 1), "paced": (0.8, 5), "served": (1.5, 8),
    "served-sizes": (1.5, 6),
    "path": (2.5, 2), "eastwest": (0.8, 1), "containers": (1.5, 1), "control": (0.9, 0),
    "sockets": (0.3, 0), "sizes": (0.3, 0), "host": (2.5, 0.5),
    "ends": (1.0, 1.0),
}  # fmt: skip
"""Of one trial: a constant and so many times the asked-for seconds."""


def chosen(
    names: Sequence[str],
    *,
    quick: bool = False,
    size: int | None = None,
    rate_pps: float | None = None,
    kernel: bool = False,
) -> list[Scenario]:
    """Scenarios by name or pattern, in the catalog's order; none named: all, or those of `--quick`.

    Those between given ends are had by name, or by a pattern that matches nothing else.

    Raises:
        HarnessError: a name that is none, frames that a path does not carry, a rate that is none
            or that its sender does not keep, or nothing of it goes through the kernel's stack.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    asked: set[str] = set()
    for name in names:
        matching = [each for each in known if fnmatchcase(each, name)]
        # Ends that nobody gave are not there: `*` does not ask for them.
        asked |= {each for each in matching if known[each].lab != "ends"} or set(matching)
        if not matching:
            near = [each for each in known if name and (name in each or each in name)]
            hint = f"; near it: {', '.join(near)}" if near else ""
            msg = f"there is no scenario {name!r}{hint}; `millrace perf list` has them all"
            raise HarnessError(msg)
    if names:
        wanted = [each for each in SCENARIOS if each.name in asked]
    else:
        wanted = [each for each in SCENARIOS if each.lab != "ends" and (each.quick or not quick)]
    found = [each.checked(size, rate_pps) for each in wanted]
    if not kernel:
        return found
    if not any(each.in_stack for each in found):
        those = ", ".join(each.name for each in SCENARIOS if each.in_stack)
        msg = f"nothing of this goes through the kernel's stack; what does: {those}"
        raise HarnessError(msg)
    return [each.looked_at() for each in found]


def estimate_s(lab: str, trials: int, seconds: float) -> float:
    """About how long so many trials in a lab take, without its building [s]."""
    constant, times = TRIAL_S[lab]
    return trials * (constant + times * seconds)


__all__ = [
    "CARRIES", "IMIX", "LABS", "SCENARIOS", "SELFTEST", "Carrier", "Scenario", "chosen",
    "estimate_s",
]  # fmt: skip
