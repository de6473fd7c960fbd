"""What objects should say of themselves, written back: asynchronous, limited, never in the way.

Only what differs from the object as it was last seen is sent. What fails is tried again, later and
later; rows of OVN never wait for any of this.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controller.kube.errors import ApiError, KubeError
from controller.kube.events import Recorder
from controller.kube.http import Client
from controller.kube.resources import Resource
from controller.kube.status import (
    Condition,
    Written,
    annotate,
    merged,
    set_finalizer,
    write_status,
)
from controller.kubesources import Sources
from controller.network.units import ObjectRef, Wanted
from controller.translate.ovn import Problem

log = logging.getLogger(__name__)

FINALIZER = "millrace.dev/network"
PROBLEM = "Error"
"""The condition that says what is wrong with an object; the kinds' own name for it."""
WRITERS = 16
"""Requests at once."""
RATE = 200.0
"""Requests a second, at most: the API server has others to serve, and each costs us a millisecond
that changes of rows do not have."""
REFUSED = frozenset({400, 403, 413, 422})
"""Answers that the same write gets again; the object is told once."""
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 60.0
SAY_READY = frozenset({"subnets.kubeovn.io", "vpcs.kubeovn.io", "ippools.kubeovn.io"})
"""Kinds that always say whether they are ready: of what cannot be read no unit does."""
STATUS = {True: "True", False: "False", None: "Unknown"}
_NOTHING = Wanted()


class _Stopped(Exception):
    """We do not lead any more."""


@dataclass(slots=True)
class Sent:
    """What was written back since the start."""

    annotations: int = 0
    statuses: int = 0
    finalizers: int = 0
    conflicts: int = 0
    errors: int = 0
    error: str = ""


@dataclass(slots=True)
class WriteBack:
    """Keeps objects saying what is wanted of them. `run` it; tell it of everything that changed.

    Attributes:
        leads: whether we may write, asked before each request.
        sent: counts.
    """

    client: Client
    sources: Sources
    recorder: Recorder
    leads: Callable[[], bool]
    rate: float = RATE
    sent: Sent = field(default_factory=Sent)
    _wanted: dict[ObjectRef, Wanted] = field(default_factory=dict)
    _problems: dict[ObjectRef, dict[str, tuple[Problem, ...]]] = field(default_factory=dict)
    _told: dict[ObjectRef, tuple[Problem, ...]] = field(default_factory=dict)
    _queue: dict[ObjectRef, None] = field(default_factory=dict)
    _busy: set[ObjectRef] = field(default_factory=set)
    _tries: dict[ObjectRef, int] = field(default_factory=dict)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _next: float = 0.0

    def want(self, writes: Mapping[ObjectRef, Wanted]) -> None:
        """What objects should say from now on."""
        for ref, wanted in writes.items():
            if wanted == _NOTHING:
                self._wanted.pop(ref, None)
            else:
                self._wanted[ref] = wanted
                self._enqueue(ref)

    def problems(self, source: str, problems: Mapping[ObjectRef, tuple[Problem, ...]]) -> None:
        """What is wrong with objects, as one of several sources says.

        It replaces what that source said of these objects before.
        """
        for ref, found in problems.items():
            told = self._problems.setdefault(ref, {})
            if found:
                told[source] = found
            else:
                told.pop(source, None)
                if not told:
                    del self._problems[ref]
            self._enqueue(ref)

    def touched(self, refs: Iterable[ObjectRef]) -> None:
        """These objects changed, perhaps away from what is wanted of them."""
        for ref in refs:
            if ref in self._wanted or ref in self._problems or ref in self._told:
                self._enqueue(ref)

    def all_problems(self) -> dict[ObjectRef, tuple[Problem, ...]]:
        """What is wrong with which object."""
        return {ref: self._of(ref) for ref in sorted(self._problems, key=str)}

    @property
    def waiting(self) -> int:
        """How many objects are still to be written."""
        return len(self._queue) + len(self._busy)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(self._worker())

    def pause(self) -> None:
        """Write nothing until `resume`."""
        self._open.clear()

    def forget(self) -> None:
        """Want nothing any more: another may lead, and whoever begins anew says all of it."""
        self._wanted.clear()
        self._problems.clear()
        self._queue.clear()

    def resume(self) -> None:
        """We lead, and rows are as they should be: whatever is wanted may differ."""
        self._open.set()
        # And who was told of a problem, by whichever controller, that he has no more.
        told = self.sources.saying(PROBLEM.encode())
        for ref in {*self._wanted, *self._problems, *self._told, *told}:
            self._enqueue(ref)

    def _of(self, ref: ObjectRef) -> tuple[Problem, ...]:
        told = self._problems.get(ref, {})
        return tuple(dict.fromkeys(one for name in sorted(told) for one in told[name]))

    def _enqueue(self, ref: ObjectRef) -> None:
        self._queue[ref] = None
        self._work.set()

    async def _worker(self) -> None:
        while True:
            await self._open.wait()
            await self._work.wait()
            ref = next((one for one in self._queue if one not in self._busy), None)
            if ref is None:
                self._work.clear()
                continue
            if not self.leads():
                # By the clock, perhaps for a moment only: what is to be written still is.
                await asyncio.sleep(FIRST_RETRY_S)
                continue
            del self._queue[ref]
            self._busy.add(ref)
            try:
                await self._bring(ref)
                self._tries.pop(ref, None)
            except KubeError as problem:
                self._later(ref, problem)
            except _Stopped:
                self._enqueue(ref)
            except Exception as error:
                # What one object says must not keep others from being written.
                log.exception("object_not_written object=%s", ref)
                self._later(ref, error)
            finally:
                self._busy.discard(ref)
                if ref in self._queue:
                    self._work.set()

    def _later(self, ref: ObjectRef, problem: Exception) -> None:
        self.sent.errors += 1
        self.sent.error = str(problem) if isinstance(problem, KubeError) else repr(problem)
        tries = self._tries[ref] = self._tries.get(ref, 0) + 1
        bound = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(tries - 1, 16))
        pause = random.uniform(bound / 2, bound)  # noqa: S311  # jitter, no secret
        if isinstance(problem, ApiError):
            pause += problem.retry_after or 0.0
            found = self.sources.look_up(ref)
            if problem.code in REFUSED and tries == 1 and found is not None:
                log.warning("not_written object=%s problem=%s", ref, problem)
                self.recorder.tell(
                    found[0], found[1].metadata, "Warning", "NotWritten", str(problem)
                )
        asyncio.get_running_loop().call_later(pause, self._enqueue, ref)

    async def _pace(self) -> None:
        """Wait for our turn: requests are spread over time.

        Raises:
            _Stopped: meanwhile another may lead.
        """
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + 1.0 / self.rate
        await asyncio.sleep(max(0.0, self._next - now - 1.0 / self.rate))
        if not self.leads():
            raise _Stopped

    async def _bring(self, ref: ObjectRef) -> None:
        """Make one object say what it should."""
        found = self.sources.look_up(ref)
        if found is None:
            self._told.pop(ref, None)
            return
        resource, obj = found
        wanted = self._wanted.get(ref, _NOTHING)
        problems = self._of(ref)
        if problems and wanted == _NOTHING and ref.resource in SAY_READY:
            wanted = Wanted(conditions={"Ready": ("False", "Refused", str(problems[0]))})
        self._tell(ref, resource, obj, problems)
        may = self.sources.written(ref.resource)
        outcome = Written.SAME
        if wanted.finalizer is not None and "finalizers" in may:
            await self._pace()
            outcome = await set_finalizer(
                self.client, resource, obj, FINALIZER, present=wanted.finalizer
            )
            self.sent.finalizers += outcome is Written.DONE
        # Each write makes the object another version, which comes back and is looked at again.
        if outcome is Written.SAME and "annotations" in may:
            outcome = await self._annotate(resource, obj, wanted)
        if outcome is Written.SAME and "status" in may:
            outcome = await self._status(resource, obj, wanted, problems)
        if outcome is Written.CONFLICT:
            self.sent.conflicts += 1  # the cache will have what was newer, and touches it

    async def _annotate(self, resource: Resource[Any], obj: Any, wanted: Wanted) -> Written:
        has = obj.metadata.annotations
        if all(has.get(name) == text for name, text in wanted.annotations.items()):
            return Written.SAME
        await self._pace()
        outcome = await annotate(self.client, resource, obj, wanted.annotations)
        self.sent.annotations += outcome is Written.DONE
        return outcome

    async def _status(
        self, resource: Resource[Any], obj: Any, wanted: Wanted, problems: tuple[Problem, ...]
    ) -> Written:
        raw = getattr(obj, "status", None)
        has = msgspec.json.decode(raw) if isinstance(raw, msgspec.Raw) else _plain(raw)
        has = has if isinstance(has, dict) else {}
        fields = dict(wanted.status)
        if isinstance(raw, msgspec.Raw):
            old = [one for one in has.get("conditions") or () if isinstance(one, dict)]
            conditions = merged(old, _conditions(wanted, problems, old), obj.metadata.generation)
            if conditions != old:
                fields["conditions"] = conditions
        if not fields:
            return Written.SAME
        await self._pace()
        outcome = await write_status(self.client, resource, obj.metadata, has, fields)
        self.sent.statuses += outcome is Written.DONE
        return outcome

    def _tell(
        self, ref: ObjectRef, resource: Resource[Any], obj: Any, problems: tuple[Problem, ...]
    ) -> None:
        before = self._told.get(ref, ())
        for problem in problems:
            if problem not in before:
                self.recorder.tell(resource, obj.metadata, "Warning", "Refused", str(problem))
        if before and not problems:
            self.recorder.tell(resource, obj.metadata, "Normal", "Accepted", "it is as written now")
        if problems:
            self._told[ref] = problems
        else:
            self._told.pop(ref, None)


def _conditions(
    wanted: Wanted, problems: tuple[Problem, ...], old: list[dict[str, Any]]
) -> list[Condition]:
    said = {"True": True, "False": False}
    found = [
        Condition(kind, said.get(status), reason, message)
        for kind, (status, reason, message) in wanted.conditions.items()
        if kind != PROBLEM or not problems
    ]
    if problems:
        text = "; ".join(map(str, problems))
        found.append(Condition(PROBLEM, True, "Refused", text[:32_000]))
    elif PROBLEM not in wanted.conditions and any(one.get("type") == PROBLEM for one in old):
        found.append(Condition(PROBLEM, False, "None"))
    return found


def _plain(status: Any) -> Any:
    """A built-in kind's status as JSON, of the fields that are read."""
    # By way of JSON, so that lists are lists, as in what is wanted.
    return msgspec.json.decode(msgspec.json.encode(status)) if status is not None else {}
