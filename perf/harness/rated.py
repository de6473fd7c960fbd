"""The scenarios whose rate is searched by the paced generator: labs "paced" and "served". Pure."""

from __future__ import annotations

from dataclasses import replace

from perf.harness.generator import IMIX, Traffic
from perf.harness.latency import LOADS_PERCENT
from perf.harness.results import Metric
from perf.harness.scenario import CYCLES, NS, PASSES, Carrier, Scenario
from perf.harness.verdict import Better

PDR = Metric("Mpps", Better.HIGHER, "PDR: rate with at most 0.5 % loss")
PUSHED = Metric("Mpps", Better.HIGHER, "most of 8 windows with at most 0.5 % loss")
_LOADED = {
    f"us{percent}_{load}": Metric(
        "us", Better.LOWER, f"latency, {percent}th percentile, at {load} % of PDR"
    )
    for load in LOADS_PERCENT
    for percent in (50, 99)
}
_RATED = {"pdr": PDR, "cycles": CYCLES, "passes": PASSES}
PACED_FLOWS = 256


def _rate(
    name: str,
    title: str,
    way: str,
    middle: str,
    traffic: Traffic | None = None,
    carrier: Carrier = Carrier.LARGE,
    *,
    quick: bool = True,
) -> Scenario:
    topology = f"pktgen (virtio-user) - {middle} - pktgen; one PMD"
    return Scenario(
        name, title, "paced", way, carrier, topology, "pdr", {**_RATED, **_LOADED},
        traffic or Traffic(flows=PACED_FLOWS), quick, LOADS_PERCENT,
    )  # fmt: skip


_GUEST = "guest (a forwarder of the generator's own)"
_TURN = "{} - wire that turns round - {}"


def _rates() -> tuple[Scenario, ...]:
    def sized(*sizes: tuple[int, int], flows: int = PACED_FLOWS) -> Traffic:
        return Traffic(sizes=sizes or ((64, 1),), flows=flows)

    found = [
        _rate("p2p", "port to port", "p2p", "br0"),
        _rate("p2p-imix", "port to port, IMIX", "p2p", "br0", sized(*IMIX)),
        _rate("p2p-1518", "port to port, 1518 octets", "p2p", "br0", sized((1518, 1)), quick=False),
        _rate("p2p-9018", "port to port, 9018 octets", "p2p", "br0", sized((9018, 1)), quick=False),
        _rate("pvp", "port to VM to port", "pvp", f"br0 - {_GUEST} - br0"),
        _rate("pvvp", "port to VM to VM to port", "pvvp", f"br0 - {_GUEST} - br0, twice"),
    ]
    for flows, quick in ((1, False), (PACED_FLOWS, False), (1_000_000, True)):
        few = "one flow" if flows == 1 else f"{flows:,} flows"
        found.append(
            _rate(f"vm-vm-rate-{flows}", f"VM to VM, OVN switch, {few}", "ovn", "br-int, OVN",
                  sized(flows=flows), Carrier.VHOST, quick=quick)
        )  # fmt: skip
    for verb, name in (("allow-stateless", "stateless"), ("allow-related", "stateful")):
        found.append(
            _rate(f"vm-vm-rate-{name}", f"VM to VM, OVN switch, 100 {name} ACLs",
                  f"ovn/{verb}:100", "br-int, OVN, 100 ACLs", None, Carrier.VHOST, quick=False)
        )  # fmt: skip
    for kind in ("geneve", "vxlan"):
        title = f"VM to VM of another node over {kind}"
        found.append(_rate(f"two-nodes-{kind}", title, kind, _TURN.format(kind, kind),
                           None, Carrier.TUNNEL))  # fmt: skip
    return tuple(found)


SELFTEST_EXTRA = 10
"""Of 64 flows, how many take an extra pass in "selftest-slower"."""


def _selftest(name: str, extra: int) -> Scenario:
    title = f"port to port, {extra} of 64 flows by an extra pass"
    made = _rate(name, title, f"shared/{extra}", "br0", Traffic(flows=64), quick=False)
    metrics = {"pushed": PUSHED, "cycles": CYCLES, "passes": PASSES}
    return replace(made, primary="pushed", metrics=metrics, loads=())


SELFTEST = ("selftest-a1", "selftest-a2", "selftest-slower")
"""Twice the same, and once ten percent slower: what `millrace perf selftest` judges."""


SERVED_NAMES = (
    ("xdp", "Millrace's XDP program"),
    ("ovn", "OVN's load balancer"),
    ("nftables", "nftables"),
    ("iptables", "iptables"),
)
MOST_NEW = 1_000_000
_KCPS = Metric("1000/s", Better.HIGHER, "new connections, at most 0.5 % lost")


def _served(services: int = 0) -> tuple[Scenario, ...]:
    """Each way with 1,000 services, or with `services`; of these latency is at half the PDR."""
    of, many, lab = "", "1,000 services", "served"
    if services:
        of, lab = f"-of-{services}", "served-sizes"
        many = "1 service" if services == 1 else f"{services:,} services"
    loads = (50,) if services else LOADS_PERCENT
    topology = f"pktgen (AF_PACKET) - veth - router on one CPU, {many}; {{}} - veth - pktgen"
    found = []
    for short, name in SERVED_NAMES:
        way = topology.format(name)
        for kind, rate, flows, under, what in (
            ("established", {"pdr": PDR}, PACED_FLOWS, loads, f"{PACED_FLOWS} connections"),
            ("new", {"kcps": _KCPS}, MOST_NEW, (50,), "each packet a connection"),
        ):
            title = f"service by {name}, {f'{many}, ' if services else ''}{what}"
            delays = {f"us{p}_{load}": _LOADED[f"us{p}_{load}"] for load in under for p in (50, 99)}
            found.append(
                Scenario(
                    f"svc-{short}{of}{'-new' if kind == 'new' else ''}", title, lab,
                    f"{short}{of}/{kind}", Carrier.VETH, way, "ns", {"ns": NS, **rate, **delays},
                    Traffic(flows=flows), not services, under,
                )
            )  # fmt: skip
    return tuple(found)


RATED: tuple[Scenario, ...] = (
    *_rates(),
    *(_selftest(name, extra) for name, extra in zip(SELFTEST, (0, 0, SELFTEST_EXTRA), strict=True)),
    *_served(),
    *_served(1),
    *_served(10_000),
)
