"""A node's maps as sockets need them, filled without the drivers: what the programs do with them
is what is tested. And the processes whose sockets are translated: one helper for each place.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from bpf import abi
from bpf.abi import SetMode, VipFlag
from bpf.pick import filter_bit, member_key
from dataplane.drivers.libbpf import Map
from dataplane.drivers.netns import inside_named
from dataplane.drivers.servicestats import FIELDS, clear_counts, read_counts
from dataplane.model.addr import L4Addr, Protocol

HELPER = Path(__file__).with_name("sockclient.py")
ANSWER_S = 20.0


def endpoint(text: str, protocol: Protocol = Protocol.TCP) -> L4Addr:
    """From `10.0.0.1:80` or `[fd00::1]:80`."""
    host, _, port = text.rpartition(":")
    return L4Addr(protocol, ip_address(host.strip("[]")), int(port))


def udp(text: str) -> L4Addr:
    return endpoint(text, Protocol.UDP)


def packed(addr: L4Addr) -> bytes:
    octets = addr.address.packed
    return octets if len(octets) == 16 else bytes(10) + b"\xff\xff" + octets


def cgroup2_mount() -> Path:
    """Where this machine has its cgroups of version 2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    raise AssertionError("no cgroup2 is mounted")


def names(targets: Sequence[L4Addr]) -> set[str]:
    """What the servers of these endpoints answer."""
    return {str(target).partition("/")[0] for target in targets}


def _word(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


V4, V6 = socket.AF_INET, socket.AF_INET6
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
NODE, NODE6 = "172.18.0.11", "fd00:18::11"
ADDRESSES = ("10.16.0.2", "10.16.0.3", "10.16.0.4", NODE)
ADDRESSES6 = ("fd00:16::2", "fd00:16::3", NODE6)

WEB = [endpoint(f"10.16.0.{n}:8080") for n in (2, 3, 4)]
WEB6 = [endpoint(f"[fd00:16::{n}]:8080") for n in (2, 3)]
DNS = [udp(f"10.16.0.{n}:5353") for n in (2, 3, 4)]
DNS6 = [udp(f"[fd00:16::{n}]:5353") for n in (2, 3)]

VIP, VIP6 = "10.96.0.10", "fd00:96::10"


class Pins:
    """Maps of one object, and where links are pinned."""

    def __init__(self, links: Path, maps: dict[str, Map]) -> None:
        self.links = links
        self.maps = maps


class SockWorld:
    """Services in the maps of a node."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self.maps = maps
        self.backends: dict[L4Addr, int] = {}
        self.services: dict[str, int] = {}
        self._members = 0

    def clear(self) -> None:
        """Forget what was served and what was counted."""
        for name in ("vips", "affinities", "sock_reverse"):
            for key in list(self.maps[name].keys()):
                self.maps[name].delete(key)
        for number in self.backends.values():
            self.maps["backends"].update(_word(number), bytes(abi.BACKEND.size))
        for number in self.services.values():
            for scope in (0, 1):
                self.maps["sets"].update(_word(2 * number + scope), bytes(abi.SET.size))
        clear_counts(self.maps, self.services.values())
        self.backends.clear()
        self.services.clear()

    def serve(
        self,
        vip: L4Addr,
        targets: Sequence[L4Addr],
        *,
        service: str = "",
        local: Sequence[L4Addr] | None = None,
        flags: VipFlag = VipFlag.VIP_REJECT,
        affinity_ticks: int = 0,
        weights: Sequence[int] = (),
    ) -> int:
        """Serve `vip` by `targets` from now on; `local` are those of this node. The service id."""
        number = self.services.setdefault(service or str(vip), len(self.services) + 1)
        self._set(2 * number, targets, weights)
        self._set(2 * number + 1, targets if local is None else local, ())
        row = abi.VIP.pack(service_id=number, flags=flags, affinity_ticks=affinity_ticks)
        key = abi.VIP_KEY.pack(addr=packed(vip), port=vip.port, proto=vip.protocol)
        self.maps["vips"].update(key, row)
        self._admit(vip)
        return number

    def withdraw(self, vip: L4Addr) -> None:
        """Serve `vip` no longer."""
        key = abi.VIP_KEY.pack(addr=packed(vip), port=vip.port, proto=vip.protocol)
        assert self.maps["vips"].delete(key)

    def _admit(self, vip: L4Addr) -> None:
        bit = filter_bit(vip.address.packed, vip.port, vip.protocol, sys.byteorder)
        held = self.maps["vip_bits"].lookup(_word(bit // 64))
        assert held is not None
        word = int.from_bytes(held, sys.byteorder) | 1 << bit % 64
        self.maps["vip_bits"].update(_word(bit // 64), word.to_bytes(8, sys.byteorder))

    def _set(self, index: int, targets: Sequence[L4Addr], weights: Sequence[int]) -> None:
        entries = sorted(
            (member_key(str(target)), self._backend(target), weight)
            for target, weight in zip(targets, weights or [1] * len(targets), strict=True)
        )
        first = self._members
        for key, number, weight in entries:
            self._member(number, key)
            if weights:
                self._member(0, weight)
        mode = SetMode.SET_WEIGHTED if weights else SetMode.SET_LIST
        row = abi.SET.pack(
            first=first, count=len(entries), mode=mode if entries else SetMode.SET_EMPTY
        )
        self.maps["sets"].update(_word(index), row)

    def _member(self, number: int, key: int) -> None:
        self.maps["members"].update(
            _word(self._members), abi.MEMBER.pack(backend_id=number, key=key)
        )
        self._members += 1

    def _backend(self, target: L4Addr) -> int:
        number = self.backends.setdefault(target, len(self.backends) + 1)
        row = abi.BACKEND.pack(addr=packed(target), port=target.port, proto=target.protocol)
        self.maps["backends"].update(_word(number), row)
        return number

    def stats(self, number: int) -> dict[str, int]:
        """What was counted for a service, over all CPUs."""
        return dict(zip(FIELDS, read_counts(self.maps)[number].tolist(), strict=True))

    def counted(self, reason: abi.Reason) -> int:
        """How often a reason was counted."""
        octets = self.maps["counters"].lookup(_word(reason)) or b""
        size = abi.COUNTER.size
        return sum(
            abi.COUNTER.unpack(octets[at : at + size])["packets"]
            for at in range(0, len(octets), size)
        )


class Refused(Exception):
    """A call of the helper's failed; the argument is the error's name (ECONNREFUSED)."""


class Client:
    """A process of its own in a cgroup and a network namespace, which makes sockets as asked."""

    def __init__(self, cgroup: Path | None, netns: str | None = None) -> None:
        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-I", str(HELPER), str(cgroup or "")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

        self._process = inside_named(netns, start)

    def __call__(self, call: str, *arguments: Any) -> Any:
        """One call of the helper's."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([call, *arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the helper ended: {self._process.poll()}"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def ask(self, target: L4Addr | str, family: int = 0) -> str:
        """Connect to a TCP endpoint: who answered."""
        if isinstance(target, str):
            target = endpoint(target)
        answer: str = self("ask", family or _family(target), str(target.address), target.port)
        return answer


def _family(target: L4Addr) -> int:
    return socket.AF_INET if target.address.version == 4 else socket.AF_INET6


@contextmanager
def child_cgroup(name: str) -> Iterator[Path]:
    """A cgroup of the test's own, removed when its processes have ended."""
    path = cgroup2_mount() / name
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


class Servers:
    """TCP and UDP servers that answer with their own name, `address:port`, all in one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[L4Addr, socket.socket] = {}
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def listen(self, *targets: L4Addr) -> None:
        """Serve here, in the calling thread's namespace."""
        for target in targets:
            tcp = target.protocol is Protocol.TCP
            kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
            made = self._sockets[target] = socket.socket(_family(target), kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((str(target.address), target.port))
            made.setblocking(False)
            name = str(target).partition("/")[0].encode()
            if tcp:
                made.listen(1024)
            act = partial(self._accept, made, name) if tcp else partial(self._answer, made, name)
            self._selector.register(made, selectors.EVENT_READ, act)
        self._wake.send(b"x")

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if self._woken.recv(1) == b"q":
                        return
                else:
                    with suppress(OSError):
                        key.data()

    def _accept(self, made: socket.socket, name: bytes) -> None:
        client, _ = made.accept()
        client.setblocking(False)
        self._selector.register(client, selectors.EVENT_READ, partial(self._echo, client))
        client.send(name + b"\n")

    def _echo(self, client: socket.socket) -> None:
        octets = b""
        with suppress(ConnectionError):
            octets = client.recv(4096)
        if octets:
            client.send(octets)
        else:
            self._selector.unregister(client)
            client.close()

    @staticmethod
    def _answer(made: socket.socket, name: bytes) -> None:
        octets, source = made.recvfrom(4096)
        made.sendto(name + b" " + octets, source)

    def close(self) -> None:
        """End them all, and their connections."""
        self._wake.send(b"q")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._wake.close()


def own_name() -> str:
    """A name that no other run of tests uses."""
    return f"mrk-{os.getpid()}-{threading.get_native_id()}"
