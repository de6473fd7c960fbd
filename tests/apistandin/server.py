"""The stand-in as an HTTP server on loopback."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.apistandin import failure, listing, patches, paths, reading
from tests.apistandin.cluster import Answer, Cluster
from tests.apistandin.failure import Failure, Object
from tests.apistandin.faults import Fault, Faults, Rule
from tests.apistandin.paths import Target
from tests.apistandin.steps import Options, served_as
from tests.apistandin.store import Change
from tests.apistandin.watching import event, events, gone_event

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0+stand-in",
    "gitTreeState": "not a real server",
    "platform": "millrace/stand-in",
}
_REASONS = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
_OF_WATCHES = (
    Fault.GONE_EVENT, Fault.ERROR_EVENT, Fault.CUT, Fault.END, Fault.BOOKMARK, Fault.DUPLICATE,
)  # fmt: skip
_WRITE_PARAMETERS = {"dryRun", "fieldManager", "fieldValidation", "force", "pretty"}


@dataclass(slots=True)
class StandIn:
    """The server: `async with StandIn() as api`, then requests to `api.url`.

    Everything in it belongs to the event loop that it runs in.
    """

    cluster: Cluster = field(default_factory=Cluster)
    faults: Faults = field(default_factory=Faults)
    tokens: Mapping[str, str] | None = None
    """Users by bearer token; None: everybody may do everything."""
    rules: list[Object] | None = None
    """RBAC rules (as in a ClusterRole) that all users have; None: no RBAC."""
    roles: Mapping[str, list[Object]] = field(default_factory=dict)
    """And rules that they have within namespaces (as in a Role)."""
    allowed: set[tuple[str, str, str]] = field(default_factory=set)
    """What RBAC let through: verb, group, resource."""
    denied: list[str] = field(default_factory=list)
    """What it did not."""
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    port: int = 0
    seed: int | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Verb and path of every request, oldest first."""
    url: str = ""
    _runner: web.AppRunner | None = None
    _watches: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.seed is not None:
            self.cluster.random = random.Random(self.seed)
            self.faults.random = random.Random(self.seed + 1)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self.stop()

    async def start(self) -> None:
        """Listen on loopback; the port of the first start is kept over restarts."""
        app = web.Application(middlewares=[self._middleware], client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self.host, self.port, ssl_context=self.tls, reuse_address=True
        )
        await site.start()
        self.port = self._runner.addresses[0][1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    async def stop(self) -> None:
        """End all watches and stop listening."""
        self.cut_watches()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    @property
    def watches(self) -> int:
        """How many are open."""
        return len(self._watches)

    def cut_watches(self) -> None:
        """Close every watch that is open, as a restart of the API server does."""
        for task in self._watches:
            task.cancel()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except _DroppedError:
            # Nobody reads it: the connection is gone.
            return web.Response()
        except Failure as problem:
            headers = {}
            if problem.retry_after is not None:
                headers["Retry-After"] = str(problem.retry_after)
            return _json(problem.status(), problem.code, headers)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith("/_standin/"):
            return await self._switch(request)
        self._authenticate(request)
        if path in ("/healthz", "/readyz", "/livez"):
            return web.Response(text="ok")
        if path == "/version":
            return _json(VERSION)
        if path.startswith("/openapi"):
            raise failure.not_implemented("OpenAPI documents")
        if request.method == "GET" and (found := paths.discover(path, self.cluster.kinds)):
            return _json(found)
        target = paths.resolve(path, self.cluster.kinds)
        query = reading.query(request)
        verb = reading.verb(request.method, target, query)
        self.requests.append((verb, path))
        self._authorize(target, verb, query)
        reading.check_accept(request.headers.get("Accept", ""))
        dropped = await self._fault(request, verb, target)
        answer = await self._serve(request, target, verb, query)
        if dropped or self.faults.strike(Fault.DROP_AFTER, verb, target.kind.plural):
            _drop(request)
        return answer

    def _authenticate(self, request: web.Request) -> None:
        if self.tokens is None:
            return
        sort, _, token = request.headers.get("Authorization", "").partition(" ")
        if sort != "Bearer" or token not in self.tokens:
            raise Failure(401, "Unauthorized", "Unauthorized")

    def _authorize(self, target: Target, verb: str, query: Mapping[str, str]) -> None:
        """RBAC by rules: groups, resources, verbs, resourceNames."""
        if self.rules is None:
            return
        kind = target.kind
        resource = f"{kind.plural}/{target.sub}" if target.sub else kind.plural
        # Who lists or watches one object by a field selector asks for it by name.
        name = target.name or query.get("fieldSelector", "").removeprefix("metadata.name=")
        for rule in (*self.rules, *self.roles.get(target.namespace, ())):
            names = rule.get("resourceNames")
            if (
                _allows(rule.get("apiGroups"), kind.group)
                and _allows(rule.get("resources"), resource)
                and _allows(rule.get("verbs"), verb)
                and (not names or name in names)
            ):
                self.allowed.add((verb, kind.group, resource))
                return
        self.denied.append(f"{verb} {resource}.{kind.group} {target.namespace}/{name}")
        text = f'User cannot {verb} resource "{resource}" in API group "{kind.group}"'
        raise failure.forbidden(kind.group, kind.plural, target.name, text)

    async def _fault(self, request: web.Request, verb: str, target: Target) -> bool:
        plural = target.kind.plural
        if rule := self.faults.strike(Fault.DELAY, verb, plural):
            await asyncio.sleep(rule.argument)
        if self.faults.strike(Fault.DROP_BEFORE, verb, plural):
            _drop(request)
        if rule := self.faults.strike(Fault.STATUS, verb, plural):
            code = int(rule.argument)
            text = "a fault that the test asked for"
            raise Failure(code, _REASONS.get(code, ""), text, retry_after=rule.retry_after)
        if verb in ("list", "watch") and self.faults.strike(Fault.GONE, verb, plural):
            raise failure.gone("too old resource version: a fault that the test asked for")
        return False

    async def _serve(
        self, request: web.Request, target: Target, verb: str, query: Mapping[str, str]
    ) -> web.StreamResponse:
        kind, cluster = target.kind, self.cluster
        if verb == "list":
            return await self._list(target, query)
        if verb == "watch":
            return await self._watch(request, target, query)
        if verb == "get":
            listing.only(query, {"resourceVersion", "pretty"})
            await listing.reach(cluster, listing.revision(query))
            return _json(served_as(kind, cluster.get(kind, target.namespace, target.name)))
        if verb in ("delete", "deletecollection"):
            return await self._delete(request, target, verb, query)
        listing.only(query, _WRITE_PARAMETERS)
        options = reading.options(request, query)
        if verb == "patch":
            return await self._patch(request, target, query, options)
        body = await reading.body(request)
        if verb == "create":
            answer = cluster.create(kind, target.namespace, body, options)
        else:
            answer = cluster.replace(kind, target.namespace, target.name, body, target.sub, options)
        return _answer(target, answer)

    async def _patch(
        self, request: web.Request, target: Target, query: Mapping[str, str], options: Options
    ) -> web.Response:
        media = request.content_type
        if media not in patches.ALL:
            raise failure.unsupported_media(media, patches.ALL)
        applies = media == patches.APPLY
        if applies and not query.get("fieldManager"):
            raise failure.bad_request("fieldManager is required for apply patch")
        if "force" in query and not applies:
            raise Failure(
                422, "Invalid", "force: Forbidden: may not be specified for non-apply patch"
            )
        body: Any = reading.parsed(await request.read(), as_yaml=applies)
        answer = self.cluster.patch(
            target.kind, target.namespace, target.name, media, body, target.sub, options
        )
        return _answer(target, answer)

    async def _delete(
        self, request: web.Request, target: Target, verb: str, query: Mapping[str, str]
    ) -> web.Response:
        known = {"dryRun", "gracePeriodSeconds", "propagationPolicy", "pretty"}
        listing.only(query, known | {"labelSelector", "fieldSelector"})
        body: Object = await reading.body(request) if request.can_read_body else {}
        if "gracePeriodSeconds" in query:
            body["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
        if "propagationPolicy" in query:
            body["propagationPolicy"] = query["propagationPolicy"]
        dry = {"dryRun": ",".join(body["dryRun"])} if body.get("dryRun") else query
        options = reading.options(request, dry)
        if verb == "delete":
            answer = self.cluster.delete(target.kind, target.namespace, target.name, body, options)
            return _answer(target, answer)
        selects = listing.selection(target.kind, query)
        items = self.cluster.delete_collection(
            target.kind, target.namespace, selects, body, options
        )
        return _json(listing.as_list(target.kind, items, self.cluster.store.revision))

    async def _list(self, target: Target, query: Mapping[str, str]) -> web.Response:
        back = 0
        if rule := self.faults.strike(Fault.STALE, "list", target.kind.plural):
            back = int(rule.argument)
        if query.get("continue") and self.faults.strike(
            Fault.EXPIRED_TOKEN, "list", target.kind.plural
        ):
            raise failure.gone("The provided continue parameter is too old")
        return _json(await listing.answer(self.cluster, target, query, back))

    async def _watch(
        self, request: web.Request, target: Target, query: Mapping[str, str]
    ) -> web.StreamResponse:
        plural = target.kind.plural
        watch = listing.watch(self.cluster, target, query)
        ends = {
            fault: rule
            for fault in _OF_WATCHES
            if (rule := self.faults.strike(fault, "watch", plural))
        }
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        count = 0
        try:
            stream = events(self.cluster, watch)
            if not await self._end(request, response, ends, count):
                async for told in stream:
                    line = _line(told)
                    await response.write(line * 2 if Fault.DUPLICATE in ends else line)
                    count += 1
                    if await self._end(request, response, ends, count):
                        break
                    await self._hurried(response, watch.bookmarks, ends, count, told)
        except asyncio.CancelledError:
            # Our own cut, or the client is gone: either way there is nobody to answer.
            task.uncancel()
            _drop(request, quiet=True)
        finally:
            self._watches.discard(task)
        return response

    async def _hurried(
        self, response: web.StreamResponse, wanted: bool, ends: Mapping[Fault, Rule], count: int,
        told: Object,
    ) -> None:  # fmt: skip
        rule = ends.get(Fault.BOOKMARK)
        if wanted and rule and count % max(1, int(rule.argument)) == 0:
            obj = told["object"]
            if told["type"] != "ERROR":
                metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
                mark = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": metadata}
                await response.write(_line({"type": "BOOKMARK", "object": mark}))

    async def _end(
        self, request: web.Request, response: web.StreamResponse, ends: Mapping[Fault, Rule],
        count: int,
    ) -> bool:  # fmt: skip
        if rule := ends.get(Fault.ERROR_EVENT):
            code, text = int(rule.argument), "a fault that the test asked for"
            said = Failure(code, _REASONS.get(code, ""), text, retry_after=rule.retry_after)
            await response.write(_line(event("ERROR", said.status())))
            return True
        for fault in (Fault.GONE_EVENT, Fault.CUT, Fault.END):
            rule = ends.get(fault)
            if rule is None or count < rule.argument:
                continue
            if fault is Fault.GONE_EVENT:
                await response.write(_line(gone_event(0, self.cluster.store.revision)))
            elif fault is Fault.CUT:
                await response.write(b'{"type":"MODIFIED","object":{"kind":"Po')
                _drop(request, quiet=True)
            return True
        return False

    async def _switch(self, request: web.Request) -> web.Response:
        """Switches for tests in other processes: compact, cut, faults."""
        what = request.path.removeprefix("/_standin/")
        if what == "compact":
            self.cluster.store.compact()
        elif what == "cut":
            self.cut_watches()
        elif what == "faults" and request.method == "DELETE":
            self.faults.clear()
        elif what == "faults":
            given = json.loads(await request.read())
            how = {**given, "verbs": frozenset(given.get("verbs", ()))}
            self.faults.add(Fault(how.pop("fault")), how.pop("argument", 0), **how)
        else:
            raise failure.no_such_page()
        return _json({"revision": self.cluster.store.revision})

    def log(self) -> list[Change]:
        """Every change since the last compaction."""
        return self.cluster.store.log


class _DroppedError(Exception):
    """The connection was cut because a test asked for it."""


def _allows(listed: list[str] | None, value: str) -> bool:
    return listed is not None and ("*" in listed or value in listed)


def _drop(request: web.Request, *, quiet: bool = False) -> None:
    """Cut the connection under a request."""
    if request.transport is not None:
        request.transport.abort()
    if not quiet:
        raise _DroppedError


def _line(obj: Object) -> bytes:
    return json.dumps(obj, separators=(",", ":")).encode() + b"\n"


def _json(obj: Object, code: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = json.dumps(obj, separators=(",", ":")).encode()
    # Exactly this type, without a charset, as the real server has it.
    return web.Response(
        body=body, status=code, headers={"Content-Type": "application/json", **(headers or {})}
    )


def _answer(target: Target, answer: Answer) -> web.Response:
    obj = answer.obj if answer.obj.get("kind") == "Status" else served_as(target.kind, answer.obj)
    response = _json(obj, answer.code)
    for text in answer.warnings:
        response.headers.add("Warning", f"299 - {json.dumps(text)}")
    return response
