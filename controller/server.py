"""The daemon's side of the wire protocol (`cni.wire`): an asyncio server on a unix socket.

Who may speak is decided twice: by the socket file's mode, which is right from the moment the file
exists, and by the peer's uid as the kernel tells it (SO_PEERCRED, unix(7)). A refusal is an answer
and a line in the log.

One request per connection. A client that goes away before its answer cancels its request, so that
whatever the handler began is undone by the handler's own clean-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from cni import wire
from controller.completion import finish

log = logging.getLogger(__name__)

Args = dict[str, object]
Handler = Callable[[Args], Awaitable[Args]]
T = TypeVar("T")

Printed = tuple[int, str]
"""An executable's exit code, and what it prints."""

Ask = Callable[[str, Args], Awaitable[Args]]
"""An operation's answer or refusal, as the wire has it."""

Runner = Callable[[bytes, Ask], Coroutine[Any, Any, Printed]]
"""Answers a call of an executable, by operations."""

_CRED = struct.Struct("3i")
"""struct ucred of SO_PEERCRED: pid, uid, gid."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one socket grants its clients. Times are in seconds."""

    read_timeout: float = 5.0
    """From connect until the request has been read whole, and for the answer to be taken."""

    connections: int = 128
    """At once; the next one is told to try again later."""

    close_timeout: float = 10.0
    """How long `close` waits for requests under way to finish their clean-up."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class SocketInUseError(OSError):
    """Another process answers on the socket's path."""


class ControlServer:
    """A listening socket and its requests; made by `serve`, ended by `close`."""

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        allowed_uids: Collection[int],
        limits: Limits,
        runner: Runner | None = None,
    ) -> None:
        self.path = path
        self._runner = runner
        self._handlers = dict(handlers)
        self._allowed_uids = frozenset(allowed_uids)
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, mode: int) -> None:
        """Bind and listen.

        Raises:
            SocketInUseError: somebody answers at that path.
            OSError: the path cannot be bound.
        """
        listener = _bind(self.path, mode)
        found = self.path.stat()
        self._inode = (found.st_dev, found.st_ino)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=wire.MAX_SIZE + wire.HEADER_SIZE
        )
        log.info("socket_listening path=%s mode=%o", self.path, mode)

    async def close(self) -> None:
        """Stop listening, cancel requests under way, wait for their clean-up, remove the file."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        # Only if it is still ours: a successor may have bound the path already.
        with contextlib.suppress(FileNotFoundError):
            found = self.path.stat()
            if (found.st_dev, found.st_ino) == self._inode:
                self.path.unlink()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._limits.close_timeout)
            if late:
                log.error("socket_close_late path=%s requests=%d", self.path, len(late))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its first byte to its last; nothing escapes but cancellation."""
        try:
            obj = await self._exchange(reader, writer)
            if obj is not None:
                await self._send(writer, obj)
        except (OSError, TimeoutError) as error:
            log.info("client_gone path=%s error=%r", self.path, error)
        finally:
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Args | Printed | None:
        """The answer to the one request of this connection; None if nobody waits for it."""
        peer = peer_of(writer)
        try:
            async with asyncio.timeout(self._limits.read_timeout):
                header = await reader.readexactly(wire.HEADER_SIZE)
                run = wire.raw_size(header) if self._runner is not None else 0
                payload = await reader.readexactly(run or wire.payload_size(header))
            # The request is read first even if it is refused: closing with unread data would
            # reset the connection, and the client might never see why.
            refused = self._refusal(peer)
            if refused is not None:
                log.warning(
                    "client_refused path=%s pid=%d uid=%d reason=%s",
                    self.path,
                    peer.pid,
                    peer.uid,
                    refused.msg,
                )
                return wire.refusal(refused)
            op, request = self._asked(payload, raw=bool(run))
        except asyncio.IncompleteReadError:
            return None
        except TimeoutError:
            text = f"no whole request within {self._limits.read_timeout:g} s"
            return wire.refusal(wire.RemoteError(wire.CODE_BAD_REQUEST, text))
        except wire.WireError as error:
            log.warning("bad_request path=%s pid=%d error=%s", self.path, peer.pid, error)
            return wire.refusal(wire.RemoteError(wire.CODE_BAD_REQUEST, str(error)))
        return await self._until_gone(reader, op, request)

    def _asked(
        self, payload: bytes, *, raw: bool
    ) -> tuple[str, Coroutine[Any, Any, Args | Printed]]:
        """What a payload asks for: its name, and what does it."""
        if raw and self._runner is not None:
            return "run", self._runner(payload, self._run)
        op, args = wire.parse_request(wire.decode(payload))
        return op, self._run(op, args)

    def _refusal(self, peer: Peer) -> wire.RemoteError | None:
        """Why this peer gets no service, if so."""
        if peer.uid not in self._allowed_uids:
            allowed = ", ".join(str(uid) for uid in sorted(self._allowed_uids))
            return wire.RemoteError(
                wire.CODE_NOT_ALLOWED,
                f"uid {peer.uid} may not use {self.path}",
                f"allowed uids: {allowed}; call as one of them",
            )
        if len(self._connections) > self._limits.connections:
            return wire.RemoteError(
                wire.CODE_TRY_AGAIN,
                f"{self.path} serves {self._limits.connections} requests already",
                "try again later",
            )
        return None

    async def _until_gone(
        self, reader: asyncio.StreamReader, op: str, request: Coroutine[Any, Any, T]
    ) -> T | None:
        """Run the request, unless the client hangs up first."""
        loop = asyncio.get_running_loop()
        work = loop.create_task(request)
        gone = loop.create_task(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                log.warning("client_hung_up path=%s op=%s", self.path, op)
                return None
            return work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            # Its clean-up is waited for even if `close` cancels this wait in turn.
            await finish(asyncio.wait({work, gone}))

    async def _run(self, op: str, args: Args) -> Args:
        """The answer's object, whatever the handler does."""
        handler = self._handlers.get(op)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            return wire.refusal(
                wire.RemoteError(
                    wire.CODE_UNKNOWN_OP, f"unknown operation {op!r}", f"known: {known}"
                )
            )
        try:
            return wire.answer(await handler(args))
        except wire.RemoteError as error:
            return wire.refusal(error)
        except Exception as error:  # the boundary: a request's bug must not end the daemon
            log.exception("request_failed path=%s op=%s", self.path, op)
            return wire.refusal(
                wire.RemoteError(
                    wire.CODE_INTERNAL,
                    f"{op!r} failed inside the daemon: {error!r}",
                    "this is a bug; the daemon's log has the traceback",
                )
            )

    async def _send(self, writer: asyncio.StreamWriter, obj: Args | Printed) -> None:
        try:
            message = wire.encode_printed(*obj) if isinstance(obj, tuple) else wire.encode(obj)
        except wire.WireError as error:
            log.error("answer_unsendable path=%s error=%s", self.path, error)  # noqa: TRY400 - no traceback needed
            message = wire.encode(
                wire.refusal(wire.RemoteError(wire.CODE_INTERNAL, f"the answer: {error}"))
            )
        async with asyncio.timeout(self._limits.read_timeout):
            writer.write(message)
            await writer.drain()


async def serve(
    path: str | os.PathLike[str],
    mode: int,
    handlers: Mapping[str, Handler],
    allowed_uids: Collection[int],
    limits: Limits = DEFAULT_LIMITS,
    runner: Runner | None = None,
) -> ControlServer:
    """Listen on `path` and answer each operation with its handler; `close()` the result.

    A handler gets the request's `args` and returns the result's object; it says no by raising
    `cni.wire.RemoteError`. A `runner` serves calls of an executable (`cni.wire.RAW`).

    Raises:
        SocketInUseError: somebody answers at that path.
        OSError: the path cannot be bound.
    """
    server = ControlServer(Path(path), handlers, allowed_uids, limits, runner)
    await server.start(mode)
    return server


def peer_of(writer: asyncio.StreamWriter) -> Peer:
    """Credentials of the connection's other end, taken by the kernel at connect(2)."""
    conn = writer.get_extra_info("socket")
    raw = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CRED.size)
    return Peer(*_CRED.unpack(raw))


@contextlib.contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """Keep two starting daemons from both finding the socket stale; leaves no lock file behind."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _bind(path: Path, mode: int) -> socket.socket:
    """A bound, not yet listening socket; `mode` holds before anybody can connect."""
    size = len(os.fsencode(path))
    if size > wire.MAX_PATH_SIZE:
        msg = (
            f"socket path {path} has {size} bytes, the kernel takes {wire.MAX_PATH_SIZE}; "
            "choose a shorter node.rundir"
        )
        raise OSError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _directory_lock(path.parent):
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # umask is the process's; another thread's new file would at worst be private.
            before = os.umask(0o177)
            try:
                listener.bind(os.fspath(path))
            finally:
                os.umask(before)
            path.chmod(mode)
            listener.listen(socket.SOMAXCONN)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody listens on.

    Raises:
        SocketInUseError: somebody listens, or the path is not a socket at all.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        msg = f"{path} exists and is not a socket; move it away or change node.rundir"
        raise SocketInUseError(msg)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            # A full backlog or no permission: somebody is there.
            pass
    msg = f"another process answers on {path}; stop it (`millrace down`) or change node.rundir"
    raise SocketInUseError(msg)
