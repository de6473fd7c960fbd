"""Traffic over every path of the lab, each with what served it, what it cost and the proof.

A path is right only if its proof is: requests that were answered by somebody else, or packets
that XDP did not count, are as wrong as no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dataplane.drivers.libbpf_programs import run_statistics
from dataplane.drivers.processes import ProcessError, wait_until
from tests.labs import lab as topology
from tests.labs import traffic
from tests.labs.lab import Lab
from tests.labs.traffic import Answers

REQUESTS = 25


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the demonstration's table."""

    path: str
    served_by: str
    result: str
    cost: str
    proof: str
    right: bool


class Wrong(Exception):
    """A path did not do what it must; the text says what was seen instead."""


@dataclass(slots=True)
class Cost:
    """Filled when the block of `measured` ends."""

    xdp: str = ""
    ovs: str = ""


@contextmanager
def measured(lab: Lab) -> Iterator[Cost]:
    """What the uplink program and the PMDs spent on what passes in the block."""
    cost = Cost()
    program, pmd = lab.node.program("up0"), lab.node.pmd()
    yield cost
    runs, spent = lab.node.program("up0"), lab.node.pmd().since(pmd)
    if runs.runs > program.runs:
        per = (runs.ns - program.ns) / (runs.runs - program.runs)
        cost.xdp = f"XDP {per:.0f} ns/packet"
    if spent.rx_packets:
        cost.ovs = f"OVS {spent.passes_per_packet:.2f} passes/packet"


def demand(condition: bool, saw: str) -> None:
    """Raise `Wrong` with what was seen."""
    if not condition:
        raise Wrong(saw)


def megaflow_to(lab: Lab, backends: tuple[str, ...]) -> str:
    """The uplink's megaflow to a backend: its address as destination, one pass, no conntrack."""
    flows = [
        flow
        for flow in lab.node.megaflows()
        if any(re.search(rf"dst={re.escape(one)}(/|,|\))", flow) for one in backends)
        and "in_port(" in flow
    ]
    uplink = _port_number(lab, "up0")
    from_uplink = [flow for flow in flows if f"in_port({uplink})" in flow]
    demand(bool(from_uplink), f"no megaflow from up0 to {' or '.join(backends)}: {flows}")
    for flow in from_uplink:
        match, _, actions = flow.partition("actions:")
        demand("recirc_id(0)" in match, f"not the first pass: {flow}")
        demand("recirc(" not in actions and "ct(" not in actions, f"conntrack: {flow}")
        # OVN's pipeline may ask for "not tracked" (-trk); "tracked" would mean an earlier pass.
        demand("+trk" not in match, f"conntrack: {flow}")
    return from_uplink[0]


def _port_number(lab: Lab, name: str) -> str:
    """The datapath's number of a port (dpctl/show: `  port 3: up0 (afxdp: ...)`)."""
    for line in lab.node.appctl("dpctl/show").splitlines():
        found = re.match(rf"\s+port (\d+): {re.escape(name)}( |$)", line)
        if found:
            return found[1]
    msg = f"the datapath has no port {name}"
    raise Wrong(msg)


@contextmanager
def every_packet_hit(lab: Lab, vip: str, protocol: str, port: int) -> Iterator[list[int]]:
    """Demand that XDP counts what the client sends to a VIP; the list then holds the number."""
    before = int(lab.node.services()[vip]["packets"])
    with traffic.counted(lab.client, vip, protocol, port) as sent:
        yield sent

    def hits() -> int:
        return int(lab.node.services()[vip]["packets"]) - before

    try:
        # Each is read at its own moment: the last packets may still be on their way.
        wait_until(lambda: hits() >= sent[0], "XDP's hits", timeout_s=5)
    except ProcessError as error:
        raise Wrong(f"{sent[0]} packets sent, {hits()} hits in XDP") from error
    demand(hits() == sent[0], f"{sent[0]} packets sent, {hits()} hits in XDP")


def service(
    lab: Lab, title: str, vip: str, port: int, protocol: str, who: tuple[str, ...], sees: str
) -> Outcome:
    """Requests to a VIP that XDP serves: answers, counters and megaflows must all agree."""
    ask = traffic.http if protocol == "tcp" else traffic.udp
    with every_packet_hit(lab, vip, protocol, port) as sent, measured(lab) as cost:
        answers = ask(lab.client, vip, port, REQUESTS)
        demand(answers.all_ok, f"{answers.ok}/{answers.sent} answered: {answers.failures[:3]}")
        addresses = dict((*topology.CONTAINERS.items(), topology.QEMU, topology.TESTPMD))
        megaflow_to(lab, tuple(addresses[name] for name in who))
    demand(set(answers.names) == set(who), f"answered by {answers.names}, not {who}")
    demand(set(answers.peers) == {sees}, f"the backend saw {answers.peers}, not {sees}")
    return Outcome(
        title,
        f"{lab.node.services()[vip]['served_by']}: {_counts(answers)}",
        f"{answers.ok}/{answers.sent} in {answers.seconds:.2f} s",
        f"{cost.xdp}; {cost.ovs}",
        f"{sent[0]} packets sent = XDP hits; megaflow to the backend, 1 pass, no ct",
        right=True,
    )


def download(lab: Lab, title: str, vip: str) -> Outcome:
    """One TCP stream through a VIP: the cost of a packet when caches are warm."""
    with every_packet_hit(lab, vip, "tcp", 80) as sent, measured(lab) as cost:
        rate = traffic.rate_gbit_s(lab.client, vip, 80, 2)
    demand(rate > 0, "nothing came")
    return Outcome(
        title,
        str(lab.node.services()[vip]["served_by"]),
        f"{rate:.2f} Gbit/s",
        f"{cost.xdp}; {cost.ovs}",
        f"{sent[0]} packets sent = XDP hits",
        right=True,
    )


def requests(
    lab: Lab, title: str, ask: Callable[[], Answers], by: str, who: set[str], proof: str
) -> Outcome:
    """Requests that OVS or the kernel serves."""
    with measured(lab) as cost:
        answers = ask()
    demand(answers.all_ok, f"{answers.ok}/{answers.sent} answered: {answers.failures[:3]}")
    demand(set(answers.names) <= who, f"answered by {answers.names}, not {who}")
    return Outcome(
        title,
        f"{by}: {_counts(answers)}",
        f"{answers.ok}/{answers.sent} in {answers.seconds:.2f} s",
        cost.ovs or "not through OVS",
        f"{proof}; the server saw {', '.join(answers.peers)}",
        right=True,
    )


def echo(lab: Lab, title: str, where: str, target: str, by: str) -> Outcome:
    """Ping, five times."""
    source = lab.client if where == "client" else lab.containers[where]
    with measured(lab) as cost:
        received, mean = traffic.ping(source, target, 5)
    demand(received == 5, f"{received}/5 answered")
    return Outcome(title, by, f"5/5, {mean:.2f} ms", cost.ovs, "echo replies", right=True)


def foreign(lab: Lab) -> Outcome:
    """The load balancer that somebody attached to a switch: OVN serves it, and it costs."""
    vip = topology.VIP_FOREIGN
    source = lab.containers["c3"]
    with measured(lab) as cost:
        answers = traffic.http(source, vip, 80, REQUESTS)
        tracked = [flow for flow in lab.node.megaflows() if "ct(" in flow]
    demand(answers.all_ok, f"{answers.ok}/{answers.sent} answered: {answers.failures[:3]}")
    demand(bool(tracked), "no megaflow with a ct action")
    shown = lab.node.services()[vip]
    demand(shown["served_by"] == "ovn", f"status says {shown['served_by']}: {shown['reason']}")
    return Outcome(
        "c3 -> VIP attached to sw1 (HTTP)",
        f"ovn: {_counts(answers)}",
        f"{answers.ok}/{answers.sent} in {answers.seconds:.2f} s",
        cost.ovs,
        f"{len(tracked)} megaflows with ct; status: {shown['reason']}",
        right=True,
    )


def every_path(lab: Lab) -> Iterator[Outcome]:
    """All paths, in order; a wrong one is a row too."""
    t = topology
    gateway = lab.node.ask("status")["gateway"]
    svc0 = str(gateway["service_address"])
    client, c1 = lab.client, lab.containers["c1"]
    web, guest = ("c1", "c2"), t.QEMU[0]
    vm_address, pmd_address = t.QEMU[1], t.TESTPMD[1]
    steps: list[tuple[str, Callable[[str], Outcome]]] = [
        (
            "client -> VIP -> QEMU guest (HTTP)",
            lambda title: service(lab, title, t.VIP_VM, 80, "tcp", (guest,), svc0),
        ),
        (
            "client -> VIP -> containers (HTTP)",
            lambda title: service(lab, title, t.VIP_WEB, 80, "tcp", web, svc0),
        ),
        (
            "client -> VIP -> containers (UDP)",
            lambda title: service(lab, title, t.VIP_UDP, 53, "udp", web, svc0),
        ),
        (
            "client -> VIP, policy local (HTTP)",
            lambda title: service(lab, title, t.VIP_LOCAL, 80, "tcp", web, t.CLIENT_ADDRESS),
        ),
        (
            "client -> VIP -> a container (download)",
            lambda title: download(lab, title, t.VIP_WEB),
        ),
        (
            "client -> QEMU guest, routed (HTTP)",
            lambda title: requests(
                lab, title, lambda: traffic.http(client, vm_address, t.PORT, REQUESTS), "ovn",
                {guest}, f"via gateway router {t.GATEWAY_ADDRESS}",
            ),
        ),
        (
            "container c1 -> container c2 (HTTP)",
            lambda title: requests(
                lab, title, lambda: traffic.http(c1, t.CONTAINERS["c2"], t.PORT, REQUESTS), "ovn",
                {"c2"}, "same switch",
            ),
        ),
        (
            "container c1 -> QEMU guest (HTTP)",
            lambda title: requests(
                lab, title, lambda: traffic.http(c1, vm_address, t.PORT, REQUESTS), "ovn",
                {guest}, "veth to vhost-user",
            ),
        ),
        (
            "container c1 -> testpmd guest (ping)",
            lambda title: echo(lab, title, "c1", pmd_address, "ovn: vm2"),
        ),
        (
            "client -> testpmd guest, routed (ping)",
            lambda title: echo(lab, title, "client", pmd_address, "ovn: vm2"),
        ),
        (
            "client -> node's own address (HTTP)",
            lambda title: requests(
                lab, title, lambda: traffic.http(client, t.NODE_ADDRESS, t.PORT, REQUESTS),
                "kernel", {"node"}, "XDP_PASS on the same NIC",
            ),
        ),
        ("c3 -> VIP attached to sw1 (HTTP)", lambda _title: foreign(lab)),
    ]  # fmt: skip
    with run_statistics():
        for title, step in steps:
            try:
                yield step(title)
            except (Wrong, ProcessError, KeyError) as error:
                yield Outcome(title, "?", "WRONG", "", f"{error}"[:600], right=False)


def _counts(answers: Answers) -> str:
    return ", ".join(f"{name} {count}x" for name, count in sorted(answers.names.items()))
