"""The controller's process between the API's stand-in and OVSDB, killed at a write that is chosen.

All that it writes passes here: requests to the API, and transactions through a relay in front of
the database. Renewals of the Lease are not counted: they come by the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from dataplane.drivers.ovsjson import Framer
from tests.apistandin.paths import Target
from tests.apistandin.server import StandIn

T = TypeVar("T")
MILLRACE = str(Path(sys.executable).with_name("millrace"))
WRITES = frozenset({"create", "update", "patch", "delete"})
CHANGES = frozenset({"insert", "update", "mutate", "delete"})


class Ended(Exception):
    """The process that wrote is dead."""


@dataclass(slots=True)
class Writes:
    """Counts writes, and has something done at one of them.

    Attributes:
        at: which, the first is 1; 0: none.
        after: once it has taken effect, but nobody knows; otherwise instead of it.
        strike: what is done then.
        seen: what was written, in order.
    """

    at: int = 0
    after: bool = False
    strike: Callable[[], Awaitable[None]] | None = None
    seen: list[str] = field(default_factory=list)

    async def pass_on(self, what: str, write: Callable[[], Awaitable[T]]) -> T:
        """Have a write done, or not.

        Raises:
            Ended: whoever wrote it is dead.
        """
        self.seen.append(what)
        mine = len(self.seen) == self.at and self.strike is not None
        if mine and not self.after:
            assert self.strike is not None
            await self.strike()
            raise Ended
        found = await write()
        if mine:
            assert self.strike is not None
            await self.strike()
            raise Ended
        return found


@dataclass(slots=True)
class Api(StandIn):
    """The stand-in, with writes that can be the last."""

    writes: Writes | None = None
    written: list[tuple[str, str, str]] = field(default_factory=list)
    """Whose write (the token is the identity), the verb, and the resource; Leases' left out."""

    async def _serve(
        self, request: web.Request, target: Target, verb: str, query: Mapping[str, str]
    ) -> web.StreamResponse:
        def serve() -> Awaitable[web.StreamResponse]:
            return super(Api, self)._serve(request, target, verb, query)

        if verb not in WRITES or target.kind.plural == "leases":
            return await serve()
        whose = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.written.append((whose, verb, target.kind.plural))
        if self.writes is None:
            return await serve()
        try:
            return await self.writes.pass_on(f"{verb} {target.kind.plural}", serve)
        except Ended:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()


class Relay:
    """A socket in front of a database's, with transactions that can be the last.

    Attributes:
        held: while it is not set nothing passes, in either direction.
        waiting: how many transactions that change something wait for it.
    """

    def __init__(self, path: Path, upstream: Path, writes: Writes) -> None:
        self.path, self._upstream, self._writes = path, upstream, writes
        self.held = asyncio.Event()
        self.held.set()
        self.waiting = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Relay]:
        """Listen until the block ends."""
        server = await asyncio.start_unix_server(self._connected, self.path)
        async with server:
            yield self

    async def _connected(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_unix_connection(self._upstream)
        answers: dict[str, asyncio.Future[None]] = {}
        ways = [
            asyncio.ensure_future(self._way(here, onward, answers, asking=True)),
            asyncio.ensure_future(self._way(there, back, answers, asking=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            onward.close()
            back.close()

    async def _way(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter,
        answers: dict[str, asyncio.Future[None]], *, asking: bool,
    ) -> None:  # fmt: skip
        framer = Framer()
        with contextlib.suppress(ConnectionError, Ended):
            while chunk := await source.read(1 << 18):
                framer.feed(chunk)
                while (message := framer.next()) is not None:
                    assert isinstance(message, dict)
                    write = asking and _is_write(message)
                    self.waiting += write
                    await self.held.wait()
                    self.waiting -= write
                    name = json.dumps(message.get("id"))
                    if write:
                        answers[name] = asyncio.get_running_loop().create_future()
                        await self._transact(message, sink, answers[name])
                    elif not asking and name in answers:
                        answers.pop(name).set_result(None)
                        await asyncio.sleep(0)
                        await _send(sink, message)
                    else:
                        await _send(sink, message)

    async def _transact(
        self, message: dict[str, Any], sink: asyncio.StreamWriter, answer: asyncio.Future[None]
    ) -> None:
        async def write() -> None:
            await _send(sink, message)
            if self._writes.after:
                await answer

        tables = sorted({str(one["table"]) for one in message["params"][1:] if _changes(one)})
        await self._writes.pass_on(f"transact {' '.join(tables)}", write)


async def _send(sink: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    sink.write(json.dumps(message, separators=(",", ":")).encode())
    await sink.drain()


def _changes(operation: object) -> bool:
    return isinstance(operation, dict) and operation.get("op") in CHANGES


def _is_write(message: dict[str, Any]) -> bool:
    return message.get("method") == "transact" and any(map(_changes, message["params"]))


def kubeconfig(url: str, token: str) -> str:
    """A file that leads to an API, as whoever has this token."""
    access = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(access)


@dataclass
class Process:
    """`millrace controller run`, to be killed."""

    directory: Path
    url: str
    nb: str
    identity: str
    running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it."""
        here = self.directory / self.identity
        here.mkdir(exist_ok=True)
        (here / "kubeconfig").write_text(kubeconfig(self.url, self.identity))
        file = here / "controller.toml"
        file.write_text(
            f'[controller]\nnb = "{self.nb}"\nkubeconfig = "{here}/kubeconfig"\n'
            f'namespace = "kube-system"\nidentity = "{self.identity}"\nsocket = "{here}/sock"\n'
        )
        with (here / "log").open("ab") as log:
            self.running = await asyncio.create_subprocess_exec(
                MILLRACE, "controller", "run", "--config", str(file), stderr=log
            )

    async def kill(self) -> None:
        """As the kernel does: at once."""
        if self.running is not None and self.running.returncode is None:
            self.running.kill()
            await self.running.wait()

    def halt(self) -> None:
        """Have it stand still, as on a machine that swaps or a guest that is paused."""
        assert self.running is not None
        self.running.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on as if no time had passed."""
        assert self.running is not None
        self.running.send_signal(signal.SIGCONT)

    @property
    def log(self) -> str:
        """What it said."""
        return (self.directory / self.identity / "log").read_text()
