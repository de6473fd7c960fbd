"""Events: what the controller tells users about their objects, in `kubectl describe`.

Equal events become one whose count grows; an object that has too much to tell is cut short. What
cannot be delivered is dropped and counted: events are news, the status is the truth.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from controller.kube.errors import ApiError, KubeError, Unreachable
from controller.kube.http import Client
from controller.kube.lease import wall_clock
from controller.kube.pacing import Backoff, Clock, RealClock
from controller.kube.resources import EVENTS, Key, Resource
from controller.kube.structs import Meta

log = logging.getLogger(__name__)

Kind = Literal["Normal", "Warning"]

COMPONENT = "millrace-controller"
SAME_FOR_S = 600.0
"""Equal events within this time are one [s]; the API server forgets events after an hour."""
BURST = 25
"""Events of one object at once."""
REFILL_S = 300.0
"""Then one more in so much time [s]."""
QUEUE = 1000
"""Events that wait to be sent; more are dropped."""
TRIES = 4
"""How often an event is sent that the server has no time for."""
KNOWN = 4096
"""Events and objects that are remembered."""


@dataclass(slots=True)
class _Known:
    """An event that was sent: where it is, and how often it happened."""

    name: str
    namespace: str
    count: int
    at: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class _News:
    resource: Resource[Any]
    metadata: Meta
    kind: Kind
    reason: str
    message: str


@dataclass(slots=True)
class Recorder:
    """Takes events at once, sends them when it can.

    Attributes:
        instance: which controller it is, e.g. its pod's name.
        dropped: events that were not sent: too many, or refused.
    """

    client: Client
    instance: str
    clock: Clock = field(default_factory=RealClock)
    now: Callable[[], datetime.datetime] = wall_clock
    dropped: int = 0
    sent: int = 0
    _queue: asyncio.Queue[_News] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    _known: OrderedDict[str, _Known] = field(default_factory=OrderedDict)
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)

    def tell(
        self, resource: Resource[Any], metadata: Meta, kind: Kind, reason: str, message: str
    ) -> None:
        """Say something about an object; never waits, never fails.

        Args:
            resource: the object's resource.
            metadata: its metadata.
            kind: Normal or Warning.
            reason: one word in CamelCase, for machines.
            message: a sentence, for people; cut at 1024 bytes, as the API demands.
        """
        if not self._allowed(metadata.uid):
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(_News(resource, metadata, kind, reason, message[:1024]))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Send what is told, until cancelled."""
        while True:
            news = await self._queue.get()
            try:
                await self._deliver(news)
            except KubeError as problem:
                self.dropped += 1
                log.warning("an event is dropped: %s", problem)
            except Exception:
                # A defect must cost one event, and nobody his network.
                self.dropped += 1
                log.exception("an event is dropped")
            finally:
                self._queue.task_done()

    async def _deliver(self, news: _News) -> None:
        """Send it, again if the server is busy or away: of a pod nothing else tells its user."""
        pace = Backoff(first_s=1.0, last_s=10.0)
        for _ in range(TRIES - 1):
            try:
                return await self._send(news)
            except Unreachable as problem:
                wish = None
                log.info("%s; trying again", problem)
            except ApiError as problem:
                if problem.code < 500 and problem.code != 429:
                    raise
                wish = problem.retry_after
                log.info("%s; trying again", problem)
            await self.clock.sleep(pace.delay(wish))
        return await self._send(news)

    async def flush(self) -> None:
        """Wait until everything that was told is sent or dropped; `run` has to be running."""
        await self._queue.join()

    def _allowed(self, uid: str) -> bool:
        """One bucket of tokens for each object."""
        now = self.clock.monotonic()
        bucket = self._buckets.setdefault(uid, _Bucket(BURST, now))
        self._buckets.move_to_end(uid)
        while len(self._buckets) > KNOWN:
            self._buckets.popitem(last=False)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL_S)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    async def _send(self, news: _News) -> None:
        text = "\0".join((news.metadata.uid, news.kind, news.reason, news.message))
        same = hashlib.sha256(text.encode()).hexdigest()
        known = self._known.get(same)
        stamp = self.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        if known and self.clock.monotonic() - known.at < SAME_FOR_S:
            key = Key(known.namespace, known.name)
            known.count += 1
            try:
                await self.client.merge(
                    EVENTS, key, {"count": known.count, "lastTimestamp": stamp, "type": news.kind}
                )
            except ApiError as problem:
                # The server forgot it: it begins anew below.
                if problem.code != 404:
                    raise
            else:
                known.at = self.clock.monotonic()
                self.sent += 1
                return
        await self._create(news, same, stamp)

    async def _create(self, news: _News, same: str, stamp: str) -> None:
        # Events about what has no namespace live in `default`.
        namespace = news.metadata.namespace or "default"
        body = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            # The API server makes the rest of the name: several controllers cannot collide.
            "metadata": {"generateName": f"{news.metadata.name[:200]}.", "namespace": namespace},
            "involvedObject": _reference(news),
            "reason": news.reason,
            "message": news.message,
            "type": news.kind,
            "source": {"component": COMPONENT, "host": self.instance},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.instance,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        made = await self.client.create(EVENTS, namespace, body)
        self.sent += 1
        known = _Known(made.metadata.name, namespace, 1, self.clock.monotonic())
        self._known[same] = known
        self._known.move_to_end(same)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)


def _reference(news: _News) -> dict[str, str]:
    about = {
        "apiVersion": news.resource.api_version,
        "kind": news.resource.kind,
        "name": news.metadata.name,
        "uid": news.metadata.uid,
        "resourceVersion": news.metadata.resource_version,
    }
    if news.metadata.namespace:
        about["namespace"] = news.metadata.namespace
    return about
