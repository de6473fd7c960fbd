"""Requests to the API server, one method for each verb, and errors that name the request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from controller.kube.auth import Access
from controller.kube.errors import ApiError, KubeError, ProtocolError, Unreachable
from controller.kube.resources import Key, Resource
from controller.kube.structs import HasMeta, Status

T = TypeVar("T", bound=HasMeta)

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
ANSWER_S = 60.0
"""How long an answer may take that is no watch [s]."""

USER_AGENT = "millrace"
FIELD_MANAGER = "millrace"
"""The manager under which our writes are recorded in managedFields."""

_PROBES = {
    socket.TCP_KEEPIDLE: 20,
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 3,
}
"""After so much silence of a watch [s], how often [s], how many in vain: after 50 s it is dead."""

_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class Client:
    """A connection to one API server, shared by everything that talks to it.

    Use as `async with Client(access) as client`. It holds no state of objects.
    """

    def __init__(self, access: Access, answer_s: float = ANSWER_S) -> None:
        self.access = access
        self._answer_s = answer_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Answers are JSON of which we read a part: unpacking costs more than the network saves.
        headers = {"User-Agent": USER_AGENT, "Accept": JSON, "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, enable_cleanup_closed=False),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._session:
            await self._session.close()

    # Verbs

    async def get(self, resource: Resource[T], key: Key) -> T:
        """One object.

        Raises:
            KubeError: as for every request: ApiError, Unreachable, ProtocolError, ConfigError.
        """
        path = resource.path(key)
        return _decode("GET", path, await self.request("GET", path), resource.struct)

    async def create(self, resource: Resource[T], namespace: str, body: Mapping[str, Any]) -> T:
        """Make an object."""
        path = resource.collection(namespace)
        return await self._write("POST", path, resource, body, JSON)

    async def replace(self, resource: Resource[T], key: Key, body: Mapping[str, Any]) -> T:
        """Put an object in the place of one; with a resourceVersion, only of that very one."""
        return await self._write("PUT", resource.path(key), resource, body, JSON)

    async def merge(
        self, resource: Resource[T], key: Key, patch: Mapping[str, Any], sub: str = ""
    ) -> T:
        """Change some fields, of the object or of a subresource (`status`)."""
        return await self._write("PATCH", resource.path(key, sub), resource, patch, MERGE_PATCH)

    async def apply(
        self, resource: Resource[T], key: Key, body: Mapping[str, Any], *, force: bool = False
    ) -> T:
        """Server-side apply: have these fields as they are here, and own them."""
        path = resource.path(key)
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        answer = await self.request("PATCH", path, query, msgspec.json.encode(body), APPLY_PATCH)
        return _decode("PATCH", path, answer, resource.struct)

    async def delete(self, resource: Resource[Any], key: Key, uid: str = "") -> None:
        """Delete an object; with a uid, only that very one. What is gone already is no error."""
        body = msgspec.json.encode({"preconditions": {"uid": uid}}) if uid else None
        try:
            await self.request("DELETE", resource.path(key), None, body)
        except ApiError as problem:
            if problem.code != 404:
                raise

    async def _write(
        self, method: str, path: str, resource: Resource[T], body: Mapping[str, Any], media: str
    ) -> T:
        query = {"fieldManager": FIELD_MANAGER}
        answer = await self.request(method, path, query, msgspec.json.encode(body), media)
        return _decode(method, path, answer, resource.struct)

    # Requests

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None,
        body: bytes | None = None, media: str = JSON,
    ) -> bytes:  # fmt: skip
        """A request and its whole answer.

        Raises:
            KubeError: ApiError for a Status, Unreachable for none, ConfigError for a token that
                cannot be read.
        """
        async with self._asked(method, path, query, body, media, self._answer_s) as response:
            return await response.read()

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], timeout_s: float
    ) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        """A watch: batches of whole lines, as they come.

        The watch ends when the server ends it, with Unreachable when the connection breaks or
        `timeout_s` [s] are over: a connection whose other end vanished tells nothing.
        """
        async with self._asked("GET", path, query, None, JSON, timeout_s) as response:
            _probed(response)
            yield _lines(response)

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, query: Mapping[str, str] | None, body: bytes | None,
        media: str, timeout_s: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        if self._session is None:
            msg = "the client is not open: use `async with Client(...)`"
            raise KubeError(msg)
        verb = "WATCH" if query and query.get("watch") else method
        again = True
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    async with self._send(method, path, query, body, media) as response:
                        # Somebody who rotates tokens may have been faster than us: once more.
                        if response.status == 401 and again and self.access.refused():
                            again = False
                            continue
                        if response.status >= 400:
                            raise await _refusal(verb, path, response)
                        yield response
                        return
        except _FAILURES as problem:
            raise Unreachable(verb, path, problem) from problem

    def _send(
        self, method: str, path: str, query: Mapping[str, str] | None, body: bytes | None,
        media: str,
    ) -> Any:  # fmt: skip
        assert self._session is not None
        headers = self.access.headers()
        if body is not None:
            headers["Content-Type"] = media
        trust = self.access.trust
        return self._session.request(
            method,
            self.access.server + path,
            params=dict(query) if query else None,
            data=body,
            headers=headers,
            ssl=trust.context() if trust else True,
            server_hostname=self.access.server_name,
            allow_redirects=False,
        )


def _probed(response: aiohttp.ClientResponse) -> None:
    """Have the kernel ask the other end of a watch, which may say nothing for minutes, if it lives.

    Without that, an API server or a balancer that vanished is noticed when the watch's time is
    over, and what changed meanwhile is not seen until then.
    """
    transport = response.connection.transport if response.connection is not None else None
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:  # it has ended already
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBES.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    """Whole lines, in batches: as many as came at once. Half a line at the end is none."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if lines := [line for line in lines if line]:
            yield lines


async def _refusal(verb: str, path: str, response: aiohttp.ClientResponse) -> ApiError:
    text = await response.read()
    try:
        status = msgspec.json.decode(text, type=Status)
    except msgspec.MsgspecError:
        # A proxy before the API server answers in its own words.
        status = Status(message=text[:200].decode(errors="replace"))
    after = response.headers.get("Retry-After", "")
    wait = float(after) if after.isdigit() else status.retry_after
    return ApiError(verb, path, response.status, status.reason, status.message, wait)


def _decode(verb: str, path: str, text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as problem:
        msg = f"{verb} {path}: the answer is no {kind.__name__}: {problem}"
        raise ProtocolError(msg) from problem
