"""Real sockets through both programs: a client, the node, a backend, each in a namespace.

The node's kernel stands in for OVS and the gateway router: translated packets that no AF_XDP socket
takes go up, are routed to the backend, and its replies are routed into svc0's other end::

    client c0 --- up0 [uplink program] node [svc program] svc0 --- svc0-peer (same node)
                                       to-b --- b0 backend
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bpf import abi
from bpf.abi import Reason
from dataplane.drivers.bpfstate import BpfState
from tests.bpf.conftest import enter
from tests.bpf.world import (
    GATEWAY_MAC,
    SERVICE_ADDRESS,
    SERVICE_MAC,
    VIP_TCP,
    VIP_UDP,
    To,
    World,
    tcp,
    udp,
)
from tests.labs.netns import Namespace, finish_checksums, packets, receive_by_napi, veth

CLIENT, NODE = "10.98.0.2", "10.98.0.1"
STREAMS, DATAGRAMS = 24, 16
WEB, DNS = ("10.16.0.2", 8080), ("10.16.0.2", 5353)


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """This thread is in a namespace meanwhile."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    enter(namespace.path)
    try:
        yield
    finally:
        enter(Path(f"/proc/self/fd/{home}"))
        os.close(home)


@dataclass(frozen=True, slots=True)
class Ends:
    """The three namespaces."""

    client: Namespace
    node: Namespace
    backend: Namespace


@contextlib.contextmanager
def ends() -> Iterator[Ends]:
    """The namespaces with their links, routes and neighbours; no program is attached."""
    made = Ends(*(Namespace(f"mrs-{os.getpid()}-{name}") for name in ("c", "n", "b")))
    spaces = (made.client, made.node, made.backend)
    try:
        for one in spaces:
            one.create()
            one.quiet()
        client, node, backend = spaces
        veth(client, "c0", node, "up0", left_addresses=[f"{CLIENT}/24"],
             right_addresses=[f"{NODE}/24"])  # fmt: skip
        veth(node, "to-b", backend, "b0", left_addresses=["10.16.0.1/24"],
             right_addresses=["10.16.0.2/24"])  # fmt: skip
        veth(node, "svc0", node, "svc0-peer")
        # What is translated is addressed to the gateway router, which this kernel is.
        node.run("ip", "link", "set", "up0", "address", GATEWAY_MAC)
        node.run("ip", "link", "set", "svc0", "address", SERVICE_MAC)
        for key in ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0",
                    "net.ipv4.conf.default.rp_filter=0", "net.ipv4.conf.up0.rp_filter=0",
                    "net.ipv4.conf.to-b.rp_filter=0"):  # fmt: skip
            node.run("sysctl", "-q", "-w", key)
        for space, device in ((client, "c0"), (node, "svc0-peer"), (node, "to-b"), (backend, "b0")):
            finish_checksums(space, device)
        receive_by_napi(client, "c0")
        client.run("ip", "neigh", "add", NODE, "lladdr", GATEWAY_MAC, "dev", "c0", "nud",
                   "permanent")  # fmt: skip
        client.run("ip", "route", "add", "192.0.2.0/24", "via", NODE)
        backend.run("ip", "route", "add", "default", "via", "10.16.0.1")
        node.run("ip", "route", "add", f"{SERVICE_ADDRESS}/32", "dev", "svc0-peer")
        node.run("ip", "neigh", "add", SERVICE_ADDRESS, "lladdr", SERVICE_MAC, "dev", "svc0-peer",
                 "nud", "permanent")  # fmt: skip
        yield made
    finally:
        for one in spaces:
            one.delete()


@dataclass(frozen=True, slots=True)
class Carried:
    """Packets between the client and the node, by the devices and by the programs."""

    sent: int
    taken: int
    answered: int
    received: int
    dropped: int

    @property
    def missing(self) -> tuple[int, int, int]:
        """Packets that met no program, answers that did not arrive, packets dropped."""
        return self.sent - self.taken, self.answered - self.received, self.dropped


def carried(made: Ends, counted: Mapping[Reason, int]) -> Carried:
    """So far; `counted` by the programs, and nothing else goes over the client's link."""
    at_uplink = (Reason.VIP_NEW, Reason.VIP_FORWARD)
    return Carried(
        packets(made.client, "c0", "tx.packets"),
        sum(counted.get(reason, 0) for reason in at_uplink),
        counted.get(Reason.SVC_REPLY, 0),
        packets(made.client, "c0", "rx.packets"),
        sum(count for reason, count in counted.items() if "DROP" in reason.name),
    )


class _Thread:
    """A thread in a namespace that works until it is told to stop."""

    def __init__(self, space: Namespace) -> None:
        self._space = space
        self.stop = threading.Event()
        self.ready = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self.ready.wait(60):
            self.stop.set()
            self._thread.join()
            raise AssertionError(f"{type(self).__name__} did not come up: {self.failure}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()

    def _guarded(self) -> None:
        try:
            enter(self._space.path)
            self.work()
        except BaseException as error:
            self.failure = error
            self.ready.set()

    def work(self) -> None:
        raise NotImplementedError


class EchoServer(_Thread):
    """Echoes every stream and datagram."""

    def work(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(WEB, backlog=512))
            datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            datagrams.bind(DNS)
            for sock in (listener, datagrams):
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ)
            self.ready.set()
            while not self.stop.is_set():
                for key, _ in selector.select(0.2):
                    found: Any = key.fileobj
                    if found is listener:
                        made = stack.enter_context(found.accept()[0])
                        selector.register(made, selectors.EVENT_READ)
                    elif found is datagrams:
                        octets, peer = found.recvfrom(2048)
                        found.sendto(octets, peer)
                    elif said := found.recv(4096):
                        found.sendall(said)
                    else:
                        selector.unregister(found)
                        found.close()


@dataclass(slots=True)
class Account:
    """What a client has seen."""

    turns: int = 0
    opened: int = 0
    lost: int = 0
    reset: int = 0
    broken: list[str] = field(default_factory=list)


class Client(_Thread):
    """Streams and datagrams that go on without pause, and new connections all the time."""

    def __init__(self, space: Namespace, *, patience_s: float = 5, streams: int = STREAMS) -> None:
        super().__init__(space)
        self._streams = streams
        self.account = Account()
        self._patience_s = patience_s

    def work(self) -> None:
        account = self.account
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(_stream()) for _ in range(self._streams)]
            datagrams = []
            for _ in range(DATAGRAMS):
                sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                sock.settimeout(self._patience_s)
                sock.connect((str(VIP_UDP.address), VIP_UDP.port))
                datagrams.append(sock)
            while not self.stop.is_set():
                stamp = account.turns.to_bytes(8, "big")
                for sock in (*streams, *datagrams):
                    sock.send(stamp)
                for sock in streams:
                    self._answer(sock, stamp)
                for sock in datagrams:
                    try:
                        self._answer(sock, stamp)
                    except TimeoutError:
                        account.lost += 1
                try:
                    with _stream() as fresh:
                        fresh.sendall(stamp)
                        self._answer(fresh, stamp)
                        account.opened += 1
                except ConnectionResetError:
                    account.reset += 1
                account.turns += 1
                time.sleep(0.002)  # or a long test would run out of the client's ports
                if account.turns == 10:
                    self.ready.set()

    def _answer(self, sock: socket.socket, stamp: bytes) -> None:
        octets = sock.recv(64)
        if octets != stamp:
            self.account.broken.append(f"{octets!r} for {stamp!r}")

    def wait_for(self, turns: int, timeout_s: float = 120) -> None:
        """Until so many more turns are over."""
        target = self.account.turns + turns
        wait_until(lambda: self.account.turns >= target or self.failure is not None, timeout_s)
        assert self.failure is None, self.failure


def _stream() -> socket.socket:
    sock = socket.create_connection((str(VIP_TCP.address), VIP_TCP.port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Until it holds; an error if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def serve(state: BpfState) -> World:
    """Both services of the round trip, on the kernel's clock."""
    world = World(state, socket.if_nametoindex("up0"), socket.if_nametoindex("svc0"))
    world.set_node()
    flags = world._node["flags"] & ~int(abi.NodeFlag.NODE_FIXED_CLOCK)
    world.set_node(flags=flags)
    world.serve(VIP_TCP, [To(tcp(*WEB))])
    world.serve(VIP_UDP, [To(udp(*DNS))])
    return world
