"""The scenarios, as data: what `millrace perf list` prints and `millrace perf run` takes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from perf.harness.generator import IMIX, HarnessError, Traffic
from perf.harness.rated import RATED, SELFTEST
from perf.harness.results import Metric
from perf.harness.scenario import (
    CARRIES,
    CYCLES,
    GBITS,
    KRPS,
    MAP_MS,
    MPPS,
    NORTHD_MS,
    NS,
    PASSES,
    RTT,
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
    Scenario(
        "control-change", "change of a service, 100 ports, 10 services", "control", "100",
        Carrier.CONTROL, "OVN, node daemon, no traffic", "map_ms",
        {"map_ms": MAP_MS, "northd_ms": NORTHD_MS},
    ),
)  # fmt: skip

AGAINST: Mapping[str, tuple[str, ...]] = {
    "vm-vm-flows": (
        "vm-vm-ovn", "vm-vm-ovn-stateless-1", "vm-vm-ovn-stateful-1", "vm-vm-ovn-stateless-100",
        "vm-vm-ovn-stateful-100",
    ),
    "svc-xdp": ("svc-ovn", "svc-nftables", "svc-iptables"),
    "svc-xdp-new": ("svc-ovn-new", "svc-nftables-new", "svc-iptables-new"),
    "out-vm": ("out-svc-vm-xdp", "out-svc-vm-ovn"),
    "east-west-svc0": ("east-west-ovn",),
}  # fmt: skip
"""Scenarios of one lab whose ratios are asked for: each on the right to that on the left."""

LABS = ("xdp", "peers", "vhost", "paced", "served", "path", "eastwest", "containers", "control")
"""In the order in which they are built: those that need no OVS first."""

SETUP_S: Mapping[str, float] = {
    "xdp": 8, "peers": 8, "vhost": 8, "paced": 10, "served": 15, "path": 20, "eastwest": 20,
    "containers": 13, "control": 20,
}  # fmt: skip
"""About what building a lab takes, for the time left; nothing else depends on it."""

TRIAL_S: Mapping[str, tuple[float, float]] = {
    "xdp": (0.3, 0), "peers": (0.3, 0), "vhost": (1.7, 1), "paced": (0.8, 5), "served": (1.5, 8),
    "path": (2.5, 2), "eastwest": (0.8, 1), "containers": (1.5, 1), "control": (0.4, 0),
}  # fmt: skip
"""Of one trial: a constant and so many times the asked-for seconds."""


def chosen(
    names: Sequence[str],
    *,
    quick: bool = False,
    size: int | None = None,
    rate_pps: float | None = None,
) -> list[Scenario]:
    """Scenarios by name, in the catalog's order; none named: all, or those of `--quick`.

    Raises:
        HarnessError: a name that is none, frames that a path does not carry, or a rate that is
            none or that its sender does not keep.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            near = [each for each in known if name and (name in each or each in name)]
            hint = f"; near it: {', '.join(near)}" if near else ""
            msg = f"there is no scenario {name!r}{hint}; `millrace perf list` has them all"
            raise HarnessError(msg)
    if names:
        wanted = [each for each in SCENARIOS if each.name in names]
    else:
        wanted = [each for each in SCENARIOS if each.quick or not quick]
    return [each.checked(size, rate_pps) for each in wanted]


def estimate_s(lab: str, trials: int, seconds: float) -> float:
    """About how long so many trials in a lab take, without its building [s]."""
    constant, times = TRIAL_S[lab]
    return trials * (constant + times * seconds)


__all__ = [
    "CARRIES", "IMIX", "LABS", "SCENARIOS", "SELFTEST", "Carrier", "Scenario", "chosen",
    "estimate_s",
]  # fmt: skip
