"""healthCheckNodePort: one HTTP port per service, which says whether this node has endpoints.

A load balancer outside asks it, and sends packets to nodes that answer 200 only. What is answered
is what kube-proxy answers: 200 with ready endpoints on this node while the daemon is well, else
503; the body is a JSON object, and the header X-Load-Balancing-Endpoint-Weight has the number of
endpoints (Kubernetes, Service API: healthCheckNodePort).

The daemon is well as long as it has converged; a round under way is no illness, so it may lack
that for GRACE_S. Terminating endpoints do not count: no new connections are wanted there.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address

from controller.translate.claims import owner_of
from controller.translate.ovn import Problem
from dataplane.model.addr import IPNetwork
from dataplane.model.service import HERE, EndpointState, Service

log = logging.getLogger(__name__)

GRACE_S = 30.0
"""How long the daemon may lack convergence before the ports say so."""

PERIOD_S = 1.0
"""How often services are looked at, and ports that were taken are tried again."""

REQUEST_S = 5.0
"""For a request to arrive and its answer to be taken."""

MAX_REQUEST = 8192
"""Bytes of a request's head."""

MAX_CONNECTIONS = 64
"""At once, of one port; the next one is closed."""

_HOSTS = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
"""What a kernel without IPv6 says, or one with it switched off."""


@dataclass(frozen=True, slots=True)
class Health:
    """What one port says of its service, "namespace/name" or a name without namespace."""

    service: str
    endpoints: int


def healths(services: Iterable[Service]) -> dict[int, Health]:
    """What each health check's port has to say: ready endpoints of this node, by address."""
    found: dict[int, tuple[str, set[object]]] = {}
    for service in services:
        if service.health_port is None:
            continue
        _, local = found.setdefault(service.health_port, (owner_of(service.port_key), set()))
        local.update(
            backend.port_name or backend.target.address
            for backend in service.backends
            if backend.place in HERE and backend.state is EndpointState.READY
        )
    return {port: Health(name, len(local)) for port, (name, local) in found.items()}


@dataclass(slots=True)
class _Port:
    """One port: its listeners, its open connections, and why it does not listen ("": it does)."""

    health: Health
    servers: list[asyncio.Server] = field(default_factory=list)
    problem: str = ""
    open: int = 0


class HealthPorts:
    """The ports of one node; lives in the event loop.

    `services` gives those that have such a port, `converged` says whether the daemon has, and
    `networks` which local addresses answer (empty: all).
    """

    def __init__(
        self,
        services: Callable[[], Iterable[Service]],
        converged: Callable[[], bool],
        networks: Callable[[], tuple[IPNetwork, ...]] = tuple,
    ) -> None:
        self._services = services
        self._converged = converged
        self._networks = networks
        self._ports: dict[int, _Port] = {}
        self._well_at: float | None = None

    async def run(self) -> None:
        """Follow the services until cancelled; all ports are closed then."""
        try:
            while True:
                wanted = healths(self._services())
                # It goes through every status of the reconciler: only if somebody may ask.
                await self.update(wanted, converged=bool(wanted) and self._converged())
                await asyncio.sleep(PERIOD_S)
        finally:
            for number in list(self._ports):
                self._close(number)

    async def update(self, wanted: dict[int, Health], *, converged: bool) -> None:
        """Listen on these ports and on no other."""
        if converged:
            self._well_at = time.monotonic()
        for number in self._ports.keys() - wanted.keys():
            self._close(number)
        for number, health in sorted(wanted.items()):
            port = self._ports.setdefault(number, _Port(health))
            port.health = health
            if not port.servers:
                await self._open(number, port)

    def problems(self) -> tuple[Problem, ...]:
        """The ports that could not be had."""
        return tuple(
            Problem(
                f"health check port {number} of {port.health.service}",
                port.problem,
                f"see who has it: `ss -ltnp 'sport = {number}'`; it is tried again",
            )
            for number, port in sorted(self._ports.items())
            if port.problem
        )

    def listening(self) -> tuple[int, ...]:
        """The ports that are answered at."""
        return tuple(sorted(number for number, port in self._ports.items() if port.servers))

    def _is_well(self) -> bool:
        return self._well_at is not None and time.monotonic() - self._well_at < GRACE_S

    async def _open(self, number: int, port: _Port) -> None:
        before, port.problem = port.problem, ""
        for family, host in _HOSTS.items():
            try:
                listener = socket.create_server((host, number), family=family, backlog=64)
            except OSError as error:
                if family == socket.AF_INET6 and error.errno in _NO_IPV6:
                    continue
                port.problem = f"{host} cannot be listened on: {error.strerror or error}"
                break
            server = await asyncio.start_server(
                lambda reader, writer: self._connection(number, reader, writer),
                sock=listener,
                limit=MAX_REQUEST,
            )
            port.servers.append(server)
        if not port.problem:
            log.info("health_port_open port=%d service=%s", number, port.health.service)
            return
        # Half of it would be well for one family and down for the other.
        _close_all(port)
        if port.problem != before:
            log.warning("health_port_refused port=%d error=%s", number, port.problem)

    def _close(self, number: int) -> None:
        port = self._ports.pop(number)
        _close_all(port)
        log.info("health_port_closed port=%d service=%s", number, port.health.service)

    async def _connection(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One request and its answer; whoever sends none in time gets none."""
        port = self._ports.get(number)
        try:
            if port is None or port.open >= MAX_CONNECTIONS or not self._is_asked_here(writer):
                return
            port.open += 1
            try:
                async with asyncio.timeout(REQUEST_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(answer(head, port.health, well=self._is_well()))
                    await writer.drain()
            finally:
                port.open -= 1
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it went away, or was no HTTP client
        finally:
            writer.close()

    def _is_asked_here(self, writer: asyncio.StreamWriter) -> bool:
        """Whether the address that the client chose is one that serves node ports."""
        networks = self._networks()
        if not networks:
            return True
        local = ip_address(writer.get_extra_info("sockname")[0].partition("%")[0])
        return any(local in network for network in networks)


def answer(head: bytes, health: Health, *, well: bool) -> bytes:
    """The response to a request with this head (RFC 9112)."""
    status = HTTPStatus.OK if health.endpoints and well else HTTPStatus.SERVICE_UNAVAILABLE
    namespace, slash, name = health.service.partition("/")
    body = json.dumps(
        {
            "service": {
                "namespace": namespace if slash else "",
                "name": name if slash else namespace,
            },
            "localEndpoints": health.endpoints,
            "serviceProxyHealthy": well,
        }
    ).encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
        f"X-Load-Balancing-Endpoint-Weight: {health.endpoints}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    response = "\r\n".join([*lines, "", ""]).encode()
    return response if head.startswith(b"HEAD ") else response + body


def _close_all(port: _Port) -> None:
    for server in port.servers:
        server.close()
    port.servers.clear()
