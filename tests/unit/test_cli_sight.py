"""`millrace services`, `conntrack` and `trace`: what they ask, print and refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from bpf.abi import FlowFlag, Reason
from cni.wire import CODE_BAD_REQUEST, RemoteError
from controller import sight_views as views
from controller.cli.main import main
from controller.cli.sight import trace_text
from controller.sight_api import filter_of, question_of
from controller.translate.ovn import Problem
from controller.translate.served import mode_of
from controller.views import PROBLEMS_SHOWN, problems_view
from dataplane.drivers.conntrack import Flow
from dataplane.drivers.servicestats import ServiceCounts
from dataplane.drivers.sweeps import Swept
from dataplane.drivers.trace import Step, Trace
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.conntrack import Endpoint, FlowFilter, FlowState
from dataplane.model.service import (
    Backend,
    EndpointState,
    Forwarding,
    Place,
    ServedBy,
    Service,
    ServiceKind,
    TrafficPolicy,
)
from tests.unit.test_cli import Daemon, config, daemon

__all__ = ["config", "daemon"]


def address(text: str, port: int, protocol: Protocol = Protocol.TCP) -> L4Addr:
    return L4Addr(protocol, ip_address(text), port)


def backend(text: str, place: Place, state: EndpointState = EndpointState.READY) -> Backend:
    return Backend(address(text, 8080), place, None, state)


WEB = Service(
    name="web",
    vip=address("192.0.2.10", 80),
    backends=(
        backend("10.1.0.11", Place.LOCAL),
        backend("10.1.0.12", Place.LOCAL, EndpointState.TERMINATING),
        backend("10.1.0.13", Place.REMOTE),
    ),
    policy=TrafficPolicy.CLUSTER,
    served_by=ServedBy.XDP,
    reason="marked for the fast path",
    port_key="default/web:http",
    affinity_s=600,
)
COUNTS = ServiceCounts(12, 1234, 10, 1000, 3, (("no_port", 2), ("full", 1)))
ROW = views.service_view(WEB, views.Traffic(7, COUNTS, 2))


def test_services(daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["services"] = {"services": [ROW], "next": None}
    assert main(["services", *config]) == 0
    assert capsys.readouterr().out == (
        "NAME  VIP                KIND          SERVED BY  MODE  POLICY   AFFINITY  "
        "BACKENDS                                            FLOWS  CONNECTIONS  PACKETS  BYTES\n"
        "web   192.0.2.10:80/tcp  loadbalancer  xdp        snat  cluster  600 s     "
        "1 ready local, 1 ready remote, 1 terminating local      2            3       12   1234\n"
    )
    assert main(["services", "--wide", *config]) == 0
    wide = capsys.readouterr().out
    assert "REPLIES  DROPS              RANGES  BECAUSE" in wide
    assert "10  2 no_port, 1 full       -  marked for the fast path" in wide


def test_what_is_refused_is_below_the_services(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    problem = Problem("load balancer b, VIP x:0", "refused: '0' is not a port", "use 1 to 65535")
    refused = problems_view([problem] * (PROBLEMS_SHOWN + 7))
    daemon.answers["services"] = {"services": [], "next": None, "refused": refused}
    assert main(["services", *config]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no services"
    assert lines[3].split("  ") == [
        "load balancer b, VIP x:0",
        "refused: '0' is not a port",
        "use 1 to 65535",
    ]
    assert lines[-1].startswith("7 more ")


def test_services_are_asked_for_page_by_page(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pages = iter(
        [{"services": [ROW, ROW], "next": 2}, {"services": [ROW | {"name": "last"}], "next": None}]
    )

    class Pages(dict[str, Any]):
        def __getitem__(self, key: str) -> object:
            return next(pages)

    daemon.answers = Pages()
    assert main(["services", "--json", *config]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["services"]]
    assert names == ["web", "web", "last"]
    assert daemon.asked == [("services", {"from": 0}), ("services", {"from": 2})]


@pytest.mark.parametrize(
    ("change", "mode"),
    [
        ({}, "snat"),
        ({"policy": TrafficPolicy.LOCAL}, "kept"),
        ({"forwarding": Forwarding.DSR}, "dsr"),
        ({"served_by": ServedBy.OVN}, ""),
    ],
)
def test_the_mode_is_what_the_backend_sees(change: dict[str, Any], mode: str) -> None:
    assert (mode_of(replace(WEB, **change)) or "") == mode


def test_a_service_is_shown_with_what_was_counted_of_its_port() -> None:
    assert ROW["drops"] == {"no_port": 2, "full": 1}
    assert (ROW["service"], ROW["service_id"], ROW["flows"]) == ("default/web:http", 7, 2)
    nothing = views.service_view(replace(WEB, source_ranges=(ip_network("10.0.0.0/8"),)), None)
    assert (nothing["packets"], nothing["service_id"]) == (0, None)
    assert nothing["source_ranges"] == ["10.0.0.0/8"]
    six = views.service_view(replace(WEB, vip=address("2001:db8::1", 80)), None)
    assert six["vip"] == "[2001:db8::1]:80"
    many = replace(WEB, backends=WEB.backends * 200)
    view = views.service_view(many, None)
    assert len(view["backends"]) == views.BACKENDS_SHOWN  # type: ignore[arg-type]
    assert view["backend_counts"] == {
        "ready local": 200,
        "ready remote": 200,
        "terminating local": 200,
    }


def test_the_families_of_a_service_port_have_ids_of_their_own() -> None:
    node_port = replace(WEB, name="np", vip=address("0.0.0.0", 30080), kind=ServiceKind.NODE_PORT)
    six = replace(WEB, name="six", vip=address("2001:db8::1", 80))
    unserved = replace(WEB, vip=address("192.0.2.77", 80), port_key="a/b:c")
    held = {WEB.vip: 7, node_port.vip: 7, address("172.18.0.11", 30080): 7, six.vip: 9}
    ids = views.ids_of_services([WEB, node_port, six, unserved], held)
    assert ids == {("default/web:http", 4): 7, ("default/web:http", 6): 9}
    assert views.names_of_ids(ids) == {7: "default/web:http", 9: "default/web:http"}


FLOW = Flow(
    number=3,
    life=1,
    protocol=6,
    client=Endpoint.parse("203.0.113.7:40000"),
    vip=Endpoint.parse("192.0.2.10:80"),
    backend=Endpoint.parse("10.1.0.11:8080"),
    source=Endpoint.parse("100.64.255.1:40000"),
    state=FlowState.ESTABLISHED,
    flags=FlowFlag.FLOW_NO_SNAT | FlowFlag.FLOW_CLIENT_FIN,
    service_id=7,
    idle=50,
    left=1000,
)


def test_flows_are_listed(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    row = views.flow_view(FLOW, "default/web:http", 0.004)
    daemon.answers["conntrack"] = {"flows": [row], "hidden": 41}
    arguments = ["--vip", "192.0.2.10", "--state", "established", "--state", "syn", "--limit", "1"]
    assert main(["conntrack", *arguments, *config]) == 0
    assert capsys.readouterr().out == (
        "PROTOCOL  CLIENT             VIP            BACKEND         SOURCE              STATE"
        "        IDLE  EXPIRES  FLAGS                SERVICE\n"
        "tcp       203.0.113.7:40000  192.0.2.10:80  10.1.0.11:8080  100.64.255.1:40000  "
        "established   0.2      4.0  client-fin, no-snat  default/web:http\n"
        "and 41 more; --limit, or a filter\n"
    )
    assert daemon.asked == [
        ("conntrack", {"vip": "192.0.2.10", "states": ["established", "syn"], "limit": 1})
    ]


def test_flows_are_ended_only_if_that_was_meant(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    swept = views.swept_view(Swept({FlowState.SYN: 2, FlowState.UDP: 1}, 0))
    fill = {"fill": {"ipv4": {"slots": 262144, "flows": 3}}}
    daemon.answers["conntrack"] = swept | fill
    assert main(["conntrack", "--flush", "--protocol", "tcp", *config]) == 0
    assert capsys.readouterr().out == (
        "3 flows: 2 syn, 1 udp\n"
        "ipv4: 3 flows in 262144 places\n"
        "nothing was ended: say --yes to end the flows that match\n"
    )
    daemon.answers["conntrack"] = swept | fill | {"evicted": {"flows": 4, "replies": 1}}
    assert main(["conntrack", "--count", *config]) == 0
    said = capsys.readouterr().out
    assert "nothing was ended" not in said
    assert said.endswith("pushed out by new flows so far: 4 flows, 1 replies\n")
    daemon.answers["conntrack"] = swept | {"ended": 3}
    assert main(["conntrack", "--flush", "--yes", *config]) == 0
    assert capsys.readouterr().out == "ended 3 flows: 2 syn, 1 udp\n"
    assert [args for _, args in daemon.asked] == [
        {"count": True, "protocol": "tcp"},
        {"count": True},
        {"flush": True},
    ]


def test_trace_tells_the_steps_and_the_end(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    trace = Trace(
        (Step("filter", "set"), Step("verdict", "VIP_NEW: translated")),
        Reason.VIP_NEW,
        new=True,
        backend=Endpoint.parse("10.1.0.11:8080"),
        backend_id=4,
        source=Endpoint.parse("100.64.255.1:40000"),
        next_hop="OVS",
    )
    daemon.answers["trace"] = views.trace_view(trace)
    assert main(["trace", "tcp", "203.0.113.7", "192.0.2.10:80", *config]) == 0
    assert capsys.readouterr().out == (
        "filter    set\n"
        "verdict   VIP_NEW: translated\n"
        "\n"
        "backend   10.1.0.11:8080\n"
        "source    100.64.255.1:40000\n"
        "next hop  OVS\n"
    )
    later = replace(trace, source=Endpoint.parse("100.64.255.1"))
    daemon.answers["trace"] = views.trace_view(later)
    main(["trace", "udp", "fd00::7", "[fd00::10]:53", "--inside", "--json", *config])
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "vip_new"
    assert (answer["source"], answer["source_port"]) == ("100.64.255.1", None)
    assert trace_text(answer).splitlines()[-2:] == [
        "source    100.64.255.1, the port is chosen when the flow begins",
        "next hop  OVS",
    ]
    assert daemon.asked == [
        (
            "trace",
            {
                "protocol": "tcp",
                "client": "203.0.113.7:40000",
                "vip": "192.0.2.10:80",
                "inside": False,
            },
        ),
        (
            "trace",
            {
                "protocol": "udp",
                "client": "[fd00::7]:40000",
                "vip": "[fd00::10]:53",
                "inside": True,
            },
        ),
    ]


def test_a_filter_is_read_from_a_request() -> None:
    wanted = filter_of({"vip": "192.0.2.10:80", "states": ["SYN", "udp"], "protocol": "tcp"})
    assert wanted == FlowFilter(
        vip=Endpoint.parse("192.0.2.10:80"),
        states=frozenset({FlowState.SYN, FlowState.UDP}),
        protocol=Protocol.TCP,
    )
    assert filter_of({}) == FlowFilter()


@pytest.mark.parametrize(
    ("args", "claim"),
    [
        ({"vip": "nonsense"}, "vip: 'nonsense' is not ADDRESS"),
        ({"states": ["dead"]}, "state: there is no state 'dead'; there are: syn, "),
        ({"protocol": "icmp"}, "protocol: there is no protocol 'icmp'"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(args: dict[str, object], claim: str) -> None:
    with pytest.raises(RemoteError) as caught:
        filter_of(args)
    assert caught.value.code == CODE_BAD_REQUEST
    assert caught.value.msg.startswith(claim)


@pytest.mark.parametrize(
    "args",
    [
        {"protocol": "tcp", "client": "203.0.113.7:1"},
        {"protocol": "tcp", "client": "203.0.113.7:1", "vip": "192.0.2.10"},
        {"protocol": "tcp", "client": "fd00::1", "vip": "192.0.2.10:80"},
    ],
)
def test_half_a_packet_is_refused(args: dict[str, object]) -> None:
    with pytest.raises(RemoteError):
        question_of(args)
