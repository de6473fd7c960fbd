"""Whether OVN's flows of a logical port are in OVS: asked of vswitchd over OpenFlow.

For a port that OVS has itself ovn-controller writes `ovn-installed`; for a nested one it writes
nothing, and says "up" in the southbound database when it has claimed the port, before its flows are
in. Its physical flows carry the first 32 bits of the Port_Binding's UUID as their cookie (OVN,
controller/physical.c), by which vswitchd finds them without a walk. The logical ones of the port's
switch are there if table 8, where its ingress pipeline begins, has any for that datapath.

Source: OpenFlow 1.3.5, 7.1 (header), 7.3.5.2 (individual flow statistics), 7.3.5.3 (aggregate).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from dataplane.ports import DataplaneError

T = TypeVar("T")

VERSION = 4
PHYSICAL_TABLE, LOGICAL_TABLE, ALL_TABLES = 0, 8, 0xFF
_HELLO, _ERROR, _ECHO, _ECHO_REPLY, _REQUEST, _REPLY = 0, 1, 2, 3, 18, 19
_FLOW, _AGGREGATE, _MORE = 1, 2, 1
_ANY = 0xFFFFFFFF
_HEADER = struct.Struct("!BBHI")
_MULTIPART = struct.Struct("!HHI")
_ASK = struct.Struct("!B3xII4xQQ")
_MATCH = struct.Struct("!HH")
_SUMS = struct.Struct("!QQI4x")
"""struct ofp_aggregate_stats_reply: packets, octets, flows."""
_METADATA = 0x8000 << 16 | 2 << 9 | 8
"""OXM header: class OPENFLOW_BASIC, field METADATA, no mask, 8 octets."""

_MAX_MESSAGE = 1 << 16


class ProbeError(DataplaneError):
    """vswitchd could not be asked."""


class FlowConnection:
    """One connection to a bridge's management socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._xid = 1

    async def tables_with(self, cookie: int) -> frozenset[int]:
        """The tables that have flows with this cookie.

        Raises:
            ProbeError: it does not answer, or refuses.
        """
        await self._ask(_FLOW, ALL_TABLES, cookie, b"")
        found: set[int] = set()
        more = True
        while more:
            answer = await self._answer()
            _, flags, _ = _MULTIPART.unpack_from(answer)
            found |= _tables_in(answer[_MULTIPART.size :])
            more = bool(flags & _MORE)
        return frozenset(found)

    async def has_datapath(self, number: int) -> bool:
        """Whether a datapath's ingress pipeline is there.

        Raises:
            ProbeError: it does not answer, or refuses.
        """
        # How many there are, for they are many where the switch has many ports.
        await self._ask(_AGGREGATE, LOGICAL_TABLE, None, struct.pack("!IQ", _METADATA, number))
        _, _, flows = _SUMS.unpack_from(await self._answer(), _MULTIPART.size)
        return bool(flows)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _ask(self, what: int, table: int, cookie: int | None, fields: bytes) -> None:
        self._xid += 1
        mask = 0 if cookie is None else 2**64 - 1
        match = _MATCH.pack(1, _MATCH.size + len(fields)) + fields
        body = _MULTIPART.pack(what, 0, 0) + _ASK.pack(table, _ANY, _ANY, cookie or 0, mask)
        await self._send(_REQUEST, self._xid, body + match + bytes(-len(match) % 8))

    async def _answer(self) -> bytes:
        while True:
            kind, xid, body = await self._message()
            if kind == _ECHO:
                await self._send(_ECHO_REPLY, xid, body)
            elif kind == _ERROR and xid == self._xid:
                msg = f"vswitchd refuses to tell its flows: OpenFlow error {body[:4].hex()}"
                raise ProbeError(msg)
            elif kind == _REPLY and xid == self._xid:
                return body

    async def greet(self) -> None:
        """Agree on the version.

        Raises:
            ProbeError: the bridge does not speak it.
        """
        await self._send(_HELLO, 1, b"")
        kind, _, _ = await self._message()
        if kind != _HELLO:
            msg = f"the bridge does not speak OpenFlow 1.3 (message {kind} in place of a hello)"
            raise ProbeError(msg)

    async def _send(self, kind: int, xid: int, body: bytes) -> None:
        self._writer.write(_HEADER.pack(VERSION, kind, _HEADER.size + len(body), xid) + body)
        await self._writer.drain()

    async def _message(self) -> tuple[int, int, bytes]:
        _, kind, size, xid = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
        return kind, xid, await self._reader.readexactly(max(0, size - _HEADER.size))


def _tables_in(entries: bytes) -> set[int]:
    """The table of each struct ofp_flow_stats: it begins with its length and its table."""
    found, at = set(), 0
    while at + 4 <= len(entries):
        size, table = struct.unpack_from("!HB", entries, at)
        if size < 4:
            break
        found.add(table)
        at += size
    return found


class FlowProbe:
    """Questions to a bridge, one after the other over one connection, whoever has them.

    A node's containers come by the hundred: vswitchd lets ten wait to be connected, and answers in
    the thread that installs their flows. Used by one event loop.
    """

    def __init__(self, ovs_rundir: str, bridge: str) -> None:
        self._path = Path(ovs_rundir) / f"{bridge}.mgmt"
        self._connection: FlowConnection | None = None
        self._lock = asyncio.Lock()
        self._users = 0

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """The connection is kept as long as somebody is in here."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._drop()

    async def connect(self) -> None:
        """Be greeted before the first question.

        Raises:
            ProbeError: vswitchd is not there, or broke off.
        """
        async with self._lock:
            await self._connected()

    async def tables_with(self, cookie: int) -> frozenset[int]:
        """The tables that have flows with this cookie.

        Raises:
            ProbeError: it is not there, does not answer, or refuses; the next question is tried
                over another connection.
        """
        async with self._lock:
            return await self._asked(lambda one: one.tables_with(cookie))

    async def has_datapath(self, number: int) -> bool:
        """Whether a datapath's ingress pipeline is there.

        Raises:
            ProbeError: as `tables_with`.
        """
        async with self._lock:
            return await self._asked(lambda one: one.has_datapath(number))

    async def _asked(self, question: Callable[[FlowConnection], Awaitable[T]]) -> T:
        connection = await self._connected()
        try:
            return await question(connection)
        except (OSError, asyncio.IncompleteReadError, struct.error) as error:
            self._drop()
            msg = f"{self._path} does not answer: {error}"
            raise ProbeError(msg) from error
        except BaseException:
            # Half an answer may be left in it.
            self._drop()
            raise

    async def _connected(self) -> FlowConnection:
        if self._connection is None:
            writer: asyncio.StreamWriter | None = None
            try:
                reader, writer = await asyncio.open_unix_connection(
                    str(self._path), limit=_MAX_MESSAGE
                )
                made = FlowConnection(reader, writer)
                await made.greet()
            except (OSError, asyncio.IncompleteReadError, struct.error) as error:
                if writer is not None:
                    writer.close()
                msg = f"{self._path} does not answer: {error}"
                raise ProbeError(msg) from error
            except BaseException:
                if writer is not None:
                    writer.close()
                raise
            self._connection = made
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def cookie_of(uuid: str) -> int:
    """The cookie of the physical flows of the Port_Binding with this UUID."""
    return int(uuid[:8], 16)


def is_installed(tables: frozenset[int]) -> bool:
    """Whether a port's physical flows are whole: from its device, and from the pipeline to it."""
    return PHYSICAL_TABLE in tables and len(tables) > 1
