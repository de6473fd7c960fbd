"""`millrace trace` says what the programs then do, for thousands of random packets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bpf.abi import Reason
from controller.sight_api import tracer
from dataplane.drivers.conntrack import Conntrack
from dataplane.drivers.trace import Trace, Tracer
from dataplane.drivers.tracemaps import Question
from dataplane.model.addr import IPAddress, Protocol
from dataplane.model.conntrack import Endpoint
from tests.bpf import ctlaws, tracenode
from tests.bpf.ctlaws import DIRECT_PORT_MIN
from tests.bpf.tracenode import OWN, SERVICE4, SERVICE6, Node

pytestmark = pytest.mark.bpf

QUESTIONS = 3000
_NODES_OWN: tuple[IPAddress, ...] = (*OWN, SERVICE4, SERVICE6)
_TRANSLATED = {Reason.VIP_NEW, Reason.VIP_FORWARD, Reason.SVC_NEW, Reason.SVC_FORWARD}


@pytest.fixture(params=[1, 2])
def pins(bpffs: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, int]]:
    made = bpffs / f"trace-{request.param}"
    made.mkdir()
    yield made, request.param
    for path in made.iterdir():
        path.unlink()
    made.rmdir()


def question(node: Node) -> Question:
    """A random packet, most often to a VIP that there is."""
    rng = node.rng
    address, port, protocol = rng.choice(node.vips)
    chance = rng.random()
    if chance < 0.04:
        port += 1
    elif chance < 0.08:
        address = rng.choice(_NODES_OWN)
    elif chance < 0.10:
        protocol = Protocol.UDP if protocol is Protocol.TCP else Protocol.TCP
    client = rng.choice([c for c in node.clients if c.version == address.version])
    # Few ports, so that flows are met again and source ports are in use.
    return Question(
        protocol,
        Endpoint(client, rng.choice([700, 1024, 40000, 40001])),
        Endpoint(address, port),
        inside=rng.random() < 0.3,
    )


def told(trace: Trace) -> str:
    return "\n".join(f"{step.name}: {step.found}" for step in trace.steps)


def check(node: Node, answers: Tracer, asked: Question) -> Reason:
    trace = answers.trace(asked)
    reason, ran = node.decide(asked)
    assert trace.reason is reason, f"{asked}\n{told(trace)}\nbut the program: {reason.name}"
    if reason in _TRANSLATED:
        ends = tracenode.ends_of(ran.packet)
        assert trace.backend is not None
        assert trace.source is not None
        assert ends.target == (trace.backend.address, trace.backend.port), told(trace)
        address, port = ends.source
        assert address == trace.source.address, told(trace)
        if trace.source.port is None:
            assert trace.new, told(trace)
            assert "chosen when the flow begins" in told(trace)
            assert port >= DIRECT_PORT_MIN
        else:
            assert port == trace.source.port, told(trace)
            # Nobody can say beforehand what the program would choose.
            assert not trace.new or port == asked.client.port, told(trace)
        assert tracenode.is_sound(ran.packet)
    return reason


def test_the_programs_do_what_trace_says(pins: tuple[Path, int]) -> None:
    with (
        tracenode.node(*pins) as node,
        Conntrack(node.maps) as conntrack,
    ):
        answers = tracer(node.maps, conntrack)
        seen = Counter(check(node, answers, question(node)) for _ in range(QUESTIONS))
        assert not ctlaws.broken(node.maps)
    met = {reason for reason, count in seen.items() if count > 1}
    assert met >= {
        Reason.VIP_NEW,
        Reason.VIP_FORWARD,
        Reason.VIP_DIRECT,
        Reason.SVC_NEW,
        Reason.SVC_FORWARD,
        Reason.DROP_NO_BACKEND,
        Reason.DROP_NO_LOCAL,
        Reason.DROP_SOURCE_RANGE,
        Reason.ANSWER_RST,
        Reason.ANSWER_UNREACHABLE,
        Reason.PASS_IPV4,
        Reason.PASS_IPV6,
        Reason.XSK_IPV4,
        Reason.SVC_UPLINK,
    }, seen


def test_a_flow_that_is_there_has_the_port_that_it_was_given(pins: tuple[Path, int]) -> None:
    with (
        tracenode.node(*pins) as node,
        Conntrack(node.maps) as conntrack,
    ):
        answers = tracer(node.maps, conntrack)
        ports: set[int] = set()
        while len(ports) < 20:
            asked = question(node)
            if answers.trace(asked).reason is not Reason.VIP_NEW:
                continue
            given = tracenode.ends_of(node.decide(asked)[1].packet).source
            trace = answers.trace(asked)
            assert trace.reason is Reason.VIP_FORWARD
            assert trace.source == Endpoint(*given)
            if given[1] != asked.client.port:
                ports.add(given[1])
        assert min(ports) >= DIRECT_PORT_MIN


def test_a_low_port_is_the_clients_own_until_another_has_it(pins: tuple[Path, int]) -> None:
    with (
        tracenode.node(*pins) as node,
        Conntrack(node.maps) as conntrack,
    ):
        answers = tracer(node.maps, conntrack)
        kept = refused = 0
        for _ in range(QUESTIONS):
            asked = question(node)
            asked = replace(asked, client=replace(asked.client, port=700))
            trace = answers.trace(asked)
            if trace.new and trace.source and trace.source.address != asked.client.address:
                kept += trace.source.port == 700
                refused += trace.source.port is None
            check(node, answers, asked)
        assert kept > 10
        assert refused > 10


def test_trace_changes_nothing(pins: tuple[Path, int]) -> None:
    with (
        tracenode.node(pins[0], 7) as node,
        Conntrack(node.maps) as conntrack,
    ):
        answers = tracer(node.maps, conntrack)
        before = node.reasons(), sorted(node.maps["affinities"].items())
        for _ in range(200):
            answers.trace(question(node))
        assert before == (node.reasons(), sorted(node.maps["affinities"].items()))
        assert {version: fill.flows for version, fill in conntrack.fill().items()} == {4: 0, 6: 0}
