"""healthCheckNodePort: who is told what, and ports that come, go and are somebody else's."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from controller import health_ports
from controller.health_ports import Health, HealthPorts, answer, healths
from dataplane.model.addr import IPNetwork, L4Addr, Protocol
from dataplane.model.service import (
    Backend,
    EndpointState,
    Place,
    ServedBy,
    Service,
    TrafficPolicy,
)

WEB = Service(
    name="web",
    vip=L4Addr(Protocol.TCP, IPv4Address("172.18.0.200"), 80),
    backends=(),
    policy=TrafficPolicy.LOCAL,
    served_by=ServedBy.XDP,
    reason="",
    port_key="ns/web:http",
    health_port=32000,
)


def backend(
    last: int, place: Place = Place.LOCAL, state: EndpointState = EndpointState.READY
) -> Backend:
    target = L4Addr(Protocol.TCP, IPv4Address("10.1.0.0") + last, 80)
    return Backend(target, place, f"pod{last}", state)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


def free_port() -> int:
    with socket.create_server(("0.0.0.0", 0)) as found:
        return int(found.getsockname()[1])


async def ask(
    port: int, request: bytes = b"GET / HTTP/1.1\r\n\r\n", host: str = "127.0.0.1"
) -> str:
    """The whole answer; empty if the connection was closed without one."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        return (await reader.read()).decode()
    except ConnectionResetError:
        return ""
    finally:
        writer.close()


async def until(claim: Callable[[], bool]) -> None:
    for _ in range(3000):
        if claim():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to pass")


def made(*networks: IPNetwork) -> HealthPorts:
    """Ports that are told by `update` alone."""
    return HealthPorts(tuple, bool, lambda: networks)


@pytest.mark.parametrize(
    ("backends", "count"),
    [
        ((), 0),
        ((backend(1), backend(2)), 2),
        ((backend(1, Place.REMOTE), backend(2, Place.UNKNOWN), backend(3, Place.OTHER_HOST)), 0),
        ((backend(1, Place.HOST),), 1),
        ((backend(1, state=EndpointState.TERMINATING),), 0),
        ((backend(1, state=EndpointState.UNREADY), backend(2)), 1),
    ],
)
def test_only_ready_endpoints_of_this_node_count(backends: tuple[Backend, ...], count: int) -> None:
    assert healths([replace(WEB, backends=backends)]) == {32000: Health("ns/web", count)}


def test_an_endpoint_counts_once_however_many_ports_and_families_it_serves() -> None:
    here = backend(1)
    other = replace(here, target=replace(here.target, port=443))
    services = [
        replace(WEB, backends=(here,)),
        replace(WEB, backends=(other,), port_key="ns/web:https"),
        replace(WEB, health_port=None),
    ]
    assert healths(services) == {32000: Health("ns/web", 1)}


@pytest.mark.parametrize(
    ("count", "well", "status"),
    [(2, True, "200 OK"), (0, True, "503 Service Unavailable"), (2, False, "503 Service")],
)
def test_the_answer_is_what_kube_proxy_says(count: int, well: bool, status: str) -> None:
    head, _, body = answer(b"GET / HTTP/1.1\r\n\r\n", Health("ns/web", count), well=well).partition(
        b"\r\n\r\n"
    )
    lines = head.decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status}")
    assert "Content-Type: application/json" in lines
    assert f"X-Load-Balancing-Endpoint-Weight: {count}" in lines
    assert f"Content-Length: {len(body)}" in lines
    assert json.loads(body) == {
        "service": {"namespace": "ns", "name": "web"},
        "localEndpoints": count,
        "serviceProxyHealthy": well,
    }


def test_head_gets_no_body() -> None:
    assert answer(b"HEAD / HTTP/1.1\r\n\r\n", Health("web", 1), well=True).endswith(b"\r\n\r\n")


def test_ports_come_and_go_with_their_services() -> None:
    port, other = free_port(), free_port()

    async def main() -> None:
        ports = made()
        await ports.update({port: Health("ns/web", 1)}, converged=False)
        assert "503" in await ask(port)
        await ports.update({port: Health("ns/web", 1)}, converged=True)
        assert "200 OK" in await ask(port)
        assert "200 OK" in await ask(port, host="::1")
        # A round under way is no illness.
        await ports.update({port: Health("ns/web", 1)}, converged=False)
        assert "200 OK" in await ask(port)
        await ports.update({port: Health("ns/web", 0)}, converged=True)
        assert "503" in await ask(port)
        await ports.update({other: Health("ns/b", 1)}, converged=True)
        assert ports.listening() == (other,)
        with pytest.raises(ConnectionRefusedError):
            await ask(port)
        await ports.update({}, converged=True)
        assert ports.listening() == ()

    run(main)


def test_long_without_convergence_is_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_ports, "GRACE_S", 0.0)
    port = free_port()

    async def main() -> None:
        ports = made()
        await ports.update({port: Health("ns/web", 1)}, converged=True)
        assert "503" in await ask(port)
        await ports.update({}, converged=True)

    run(main)


def test_a_port_that_is_taken_is_named_and_had_as_soon_as_it_is_free() -> None:
    async def main() -> None:
        ports = made()
        with socket.create_server(("0.0.0.0", 0)) as taken:
            port = int(taken.getsockname()[1])
            await ports.update({port: Health("ns/web", 1)}, converged=True)
            (problem,) = ports.problems()
            assert problem.name == f"health check port {port} of ns/web"
            assert "cannot be listened on" in problem.cause
            assert f"sport = {port}" in problem.next_step
            assert ports.listening() == ()
        await ports.update({port: Health("ns/web", 1)}, converged=True)
        assert ports.problems() == ()
        assert "200 OK" in await ask(port)
        await ports.update({}, converged=True)

    run(main)


@pytest.mark.parametrize(
    "request_", [b"\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n", b"GET /" + b"x" * 20_000 + b"\r\n\r\n"]
)
def test_what_is_no_request_harms_nobody(request_: bytes) -> None:
    port = free_port()

    async def main() -> None:
        ports = made()
        await ports.update({port: Health("ns/web", 1)}, converged=True)
        await ask(port, request_)
        assert "200 OK" in await ask(port)
        await ports.update({}, converged=True)

    run(main)


@pytest.mark.parametrize(("network", "answered"), [("127.0.0.0/8", True), ("192.0.2.0/24", False)])
def test_only_addresses_that_serve_node_ports_answer(network: str, answered: bool) -> None:
    port = free_port()
    networks: tuple[IPNetwork, ...] = (IPv4Network(network),)

    async def main() -> None:
        ports = made(*networks)
        await ports.update({port: Health("ns/web", 1)}, converged=True)
        assert bool(await ask(port)) is answered
        await ports.update({}, converged=True)

    run(main)


def test_running_follows_the_services_and_closes_everything_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_ports, "PERIOD_S", 0.01)
    port = free_port()
    services = [replace(WEB, backends=(backend(1),), health_port=port)]

    async def main() -> None:
        ports = HealthPorts(lambda: services, lambda: True)
        task = asyncio.create_task(ports.run())
        await until(lambda: ports.listening() == (port,))
        assert "200 OK" in await ask(port)
        services.clear()
        await until(lambda: ports.listening() == ())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ports.listening() == ()

    run(main)
