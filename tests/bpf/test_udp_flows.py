"""When a UDP flow is a stream: not before its client goes on after an answer.

Question and answer, as DNS's, hold a source port towards the backend and a record. As long as such
a flow counts for little, a resolver's clients use up neither.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from bpf.abi import CtState, Reason
from dataplane.drivers.bpfstate import BpfState, remove_pins
from dataplane.drivers.conntrack import Conntrack
from dataplane.drivers.programs import ProgramTable
from dataplane.model.addr import L4Addr
from dataplane.model.config import ServicesConfig
from dataplane.model.conntrack import Endpoint, FlowFilter, FlowState
from dataplane.model.rows import Program, ProgramKind
from dataplane.plan.capacity import map_sizes
from tests.bpf import roundtrip
from tests.bpf.rarepackets import base, client_frame, service_address
from tests.bpf.roundtrip import Client, EchoServer, inside
from tests.bpf.world import (
    CLIENT_PORT,
    DNS,
    DNS6,
    GATEWAY_MAC,
    SERVICE_MAC,
    TIMEOUTS_S,
    VIP6_UDP,
    VIP_UDP,
    World,
    built,
    from_backend,
    from_client,
)

pytestmark = pytest.mark.bpf

SHORT_S = TIMEOUTS_S["CT_UDP_ANSWERED"]
FAMILIES = pytest.mark.parametrize(
    ("vip", "target"), [(VIP_UDP, DNS), (VIP6_UDP, DNS6)], ids=["IPv4", "IPv6"]
)
STEPS = [
    ("question", CtState.CT_UDP_ONE_WAY),
    ("question", CtState.CT_UDP_ONE_WAY),
    ("answer", CtState.CT_UDP_ANSWERED),
    ("answer", CtState.CT_UDP_ANSWERED),
    ("question", CtState.CT_UDP),
    ("answer", CtState.CT_UDP),
    ("question", CtState.CT_UDP),
]


def rare(six: bool, ip: Packet) -> Packet:
    """The header with something behind it that the hot path leaves to others."""
    if six:
        return ip / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
    ip.options = [IPOption_NOP()] * 4
    return ip


def question(vip: L4Addr, *, plain: bool = True) -> Packet:
    if plain:
        return from_client(vip)
    six = vip.address.version == 6
    ip = rare(six, base(six, str(vip.address)))
    return client_frame(ip, UDP(sport=CLIENT_PORT, dport=vip.port) / Raw(b"who?"))


def answer(world: World, vip: L4Addr, target: L4Addr, *, plain: bool = True) -> Packet:
    six = vip.address.version == 6
    header = (IPv6 if six else IP)(src=str(target.address), dst=service_address(six))
    port = world.port_of(question(vip))
    return built(
        Ether(src=GATEWAY_MAC, dst=SERVICE_MAC)
        / (header if plain else rare(six, header))
        / UDP(sport=target.port, dport=port)
        / Raw(b"you")
    )


def only(world: World, vip: L4Addr) -> CtState:
    (flow,) = world.flows(vip.address.version).values()
    return CtState(flow.fields["state"])


@FAMILIES
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "rare"])
def test_a_stream_is_a_client_that_goes_on_after_an_answer(
    world: World, vip: L4Addr, target: L4Addr, plain: bool
) -> None:
    for number, (step, state) in enumerate(STEPS):
        if step == "question":
            seen = world.arrive(question(vip, plain=plain))
            assert seen.reason is (Reason.VIP_FORWARD if number else Reason.VIP_NEW)
        else:
            seen = world.deliver(answer(world, vip, target, plain=plain))
            assert seen.reason is Reason.SVC_REPLY
        assert only(world, vip) is state, number


@FAMILIES
def test_an_answered_flow_has_a_questions_time_and_a_stream_its_own(
    world: World, vip: L4Addr, target: L4Addr
) -> None:
    world.arrive(question(vip))
    world.pass_time(SHORT_S)
    world.deliver(answer(world, vip, target))
    world.pass_time(SHORT_S)
    late = answer(world, vip, target)
    assert world.deliver(late).reason is Reason.SVC_REPLY
    world.pass_time(SHORT_S + 1)
    assert world.deliver(late).reason is Reason.DROP_SVC_NO_FLOW
    assert world.arrive(question(vip)).reason is Reason.VIP_NEW
    world.deliver(answer(world, vip, target))
    world.pass_time(SHORT_S)
    assert world.arrive(question(vip)).reason is Reason.VIP_FORWARD
    world.pass_time(TIMEOUTS_S["CT_UDP"])
    assert world.deliver(answer(world, vip, target)).reason is Reason.SVC_REPLY


@FAMILIES
def test_exchanges_beyond_the_table_are_refused_nothing_and_end_no_stream(
    world: World, vip: L4Addr, target: L4Addr
) -> None:
    """No time passes: not one of the exchanges is over when the table is full of them."""
    version = vip.address.version
    slots = world.maps[f"ct{version}"].info.max_entries
    streams = range(2000, 2050)
    for port in streams:
        first = world.arrive(from_client(vip, port=port))
        world.deliver(from_backend(first.packet))
        world.arrive(from_client(vip, port=port))
    before = world.counted()
    asked = bytes(from_client(vip, payload=b""))
    uplink = world.state.program(ProgramKind.UPLINK)
    svc = world.state.program(ProgramKind.SERVICE)
    # Of answers only the port differs, and a UDP checksum of none is no wrong one for any.
    at, ports = (26, 34) if version == 4 else (22 + 12, 54)
    source = service_address(version == 6)
    answering = bytes(
        Ether(src=GATEWAY_MAC, dst=SERVICE_MAC)
        / (IPv6 if version == 6 else IP)(src=str(target.address), dst=source)
        / UDP(sport=target.port, dport=1, chksum=0)
    )
    for number in range(2 * slots):
        client = (0x0A000000 + number).to_bytes(4, "big")
        out = uplink.run(asked[:at] + client + asked[at + 4 :], ifindex=world.uplink)
        given = out.packet[ports : ports + 2]
        svc.run(answering[: ports + 2] + given + answering[ports + 4 :], ifindex=world.service_link)
    after = world.counted()
    assert {r.name: n - before.get(r, 0) for r, n in after.items() if n != before.get(r, 0)} == {
        "VIP_NEW": 2 * slots,
        "SVC_REPLY": 2 * slots,
    }
    for port in streams:
        assert world.arrive(from_client(vip, port=port)).reason is Reason.VIP_FORWARD, port
    live = [CtState(flow.fields["state"]) for flow in world.flows(version).values()]
    assert live.count(CtState.CT_UDP) == len(streams)
    assert live.count(CtState.CT_UDP_ANSWERED) == len(live) - len(streams) > slots // 2


# -- real sockets -----------------------------------------------------------------------------


@pytest.fixture
def node(bpffs: Path) -> Iterator[tuple[roundtrip.Ends, BpfState]]:
    """The programs on a node's devices, on the kernel's clock, with tables that are soon full."""
    root = str(bpffs / "exchanges")
    sizes = map_sizes(ServicesConfig(flows=1024, services=1024, backends=4096))
    with ExitStack() as stack:
        ends = stack.enter_context(roundtrip.ends())
        stack.enter_context(inside(ends.node))
        stack.callback(remove_pins, root)
        state = stack.enter_context(BpfState(root, sizes=sizes))
        roundtrip.serve(state)
        rows = [
            ("up0", Program(ProgramKind.UPLINK, swap=False)),
            ("svc0", Program(ProgramKind.SERVICE, swap=False)),
        ]
        assert ProgramTable(state).upsert(rows) == {}
        yield ends, state


def exchange(port: int, *, times: int = 1) -> int:
    """Ask from this port, as a resolver's client does; how many answers came."""
    answers = 0
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.bind((roundtrip.CLIENT, port))
        sock.connect((str(VIP_UDP.address), VIP_UDP.port))
        for turn in range(times):
            asked = f"{port} {turn}".encode()
            sock.send(asked)
            try:
                answers += sock.recv(100) == asked
            except TimeoutError:
                continue
    return answers


def test_a_resolvers_clients_fill_no_table(node: tuple[roundtrip.Ends, BpfState]) -> None:
    """Three times as many exchanges as there are records, each from another port, beside streams.

    Long before a question's time is over: none is without an answer, nobody else notices.
    """
    ends, state = node
    slots = state.maps["ct4"].info.max_entries
    with ExitStack() as stack:
        conntrack = stack.enter_context(Conntrack(state.maps))
        server = stack.enter_context(EchoServer(ends.backend))
        client = stack.enter_context(Client(ends.client))
        client.wait_for(10)
        with inside(ends.client):
            ports = range(2048, 2048 + 3 * slots)
            unanswered = next((port for port in ports if not exchange(port)), None)
            lasting = exchange(1024, times=2)
        live = conntrack.fill()[4].live
        asked = Endpoint.parse(f"{roundtrip.CLIENT}:1024")
        (stream,), _ = conntrack.flows(FlowFilter(client=asked))
        client.wait_for(10)
    assert (client.failure, server.failure) == (None, None)
    assert (unanswered, lasting) == (None, 2)
    account = client.account
    assert (account.lost, account.reset, account.broken) == (0, 0, [])
    assert stream.state is FlowState.UDP
    assert live[FlowState.UDP] == roundtrip.DATAGRAMS + 1
    assert live[FlowState.ESTABLISHED] >= roundtrip.STREAMS
    assert live[FlowState.UDP_ANSWERED] > slots // 2
