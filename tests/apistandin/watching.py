"""The events of one watch."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.apistandin import failure
from tests.apistandin.cluster import Cluster
from tests.apistandin.failure import Object
from tests.apistandin.kinds import Kind
from tests.apistandin.selectors import Predicate
from tests.apistandin.steps import served_as
from tests.apistandin.store import Change

BOOKMARK_EVERY_S = 60.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched, from where, and for how long."""

    kind: Kind
    namespace: str
    selects: Predicate
    revision: int | None
    """Start after this revision; None: begin with what there is."""
    bookmarks: bool
    initial_events: bool
    """Whether a bookmark says where what there was ends (sendInitialEvents)."""
    timeout_s: float


def event(kind: str, obj: Object) -> Object:
    return {"type": kind, "object": obj}


def gone_event(revision: int, compacted: int) -> Object:
    """The event that a watch ends with when its past is gone."""
    text = f"too old resource version: {revision} ({compacted})"
    return event("ERROR", failure.gone(text).status())


async def events(cluster: Cluster, watch: Watch) -> AsyncIterator[Object]:
    """Events until the watch's time is over."""
    store = cluster.store
    end = time.monotonic() + watch.timeout_s
    if watch.revision is None:
        at = store.revision
        for obj in cluster.page(watch.kind, watch.namespace, watch.selects).items:
            yield event("ADDED", served_as(watch.kind, obj))
        if watch.initial_events and watch.bookmarks:
            yield bookmark(watch.kind, at, initial_end=True)
    else:
        at = watch.revision
        if at < store.compacted:
            yield gone_event(at, store.compacted)
            return
    said_at = time.monotonic()
    last_said = False
    while (now := time.monotonic()) < end:
        for change in list(store.since(at)):
            at = change.revision
            if told := _told(watch, change):
                yield told
        if watch.bookmarks and not last_said and end - now < 2 < watch.timeout_s:
            last_said = True
            yield bookmark(watch.kind, max(at, store.revision))
        elif watch.bookmarks and now - said_at >= BOOKMARK_EVERY_S:
            said_at = now
            yield bookmark(watch.kind, max(at, store.revision))
        wait = min(end - now, BOOKMARK_EVERY_S, 1.0 if end - now < 3 else end - now - 2)
        await store.wait(lambda: store.revision > at, wait)  # noqa: B023


def bookmark(kind: Kind, revision: int, *, initial_end: bool = False) -> Object:
    metadata: Object = {"resourceVersion": str(revision)}
    if initial_end:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    obj: Object = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
    return event("BOOKMARK", obj)


def _told(watch: Watch, change: Change) -> Object | None:
    """What a change is to this watch: an object that enters its selection is added to it."""
    if change.kind != watch.kind.key:
        return None
    if watch.namespace and change.key[0] != watch.namespace:
        return None
    was = change.before is not None and watch.selects(change.before)
    is_now = change.after is not None and watch.selects(change.after)
    if is_now and change.after is not None:
        return event("MODIFIED" if was else "ADDED", served_as(watch.kind, change.after))
    if was and change.before is not None:
        # The last state that was selected, with the revision of the change that ended it.
        metadata = change.before["metadata"] | {"resourceVersion": str(change.revision)}
        return event("DELETED", served_as(watch.kind, change.before) | {"metadata": metadata})
    return None
