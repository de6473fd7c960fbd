"""Writing back: the status of an object, and its finalizers, only where something differs."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from controller.kube.errors import ApiError
from controller.kube.http import Client
from controller.kube.lease import wall_clock
from controller.kube.resources import Resource, key_of
from controller.kube.structs import HasMeta, Meta

Json = Any


class Written(StrEnum):
    """What became of a write."""

    DONE = "done"
    SAME = "same"
    """Nothing differed: nothing was sent, or the server found that it made no difference."""
    GONE = "gone"
    """The object is not there any more, or is another one of the same name."""
    CONFLICT = "conflict"
    """Somebody else was faster: look again, and decide anew."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a status (API conventions), without its times."""

    type: str
    status: bool | None
    """None: unknown."""
    reason: str
    message: str = ""


def difference(has: Json, wanted: Mapping[str, Json]) -> dict[str, Json]:
    """The merge patch that makes the named fields of `has` as `wanted` has them.

    A field that is None is taken away; fields that `wanted` does not name stay. Lists are replaced
    as a whole, as merge patches do.
    """
    patch: dict[str, Json] = {}
    had: Mapping[str, Json] = has if isinstance(has, Mapping) else {}
    for key, value in wanted.items():
        if isinstance(value, Mapping):
            below = difference(had.get(key), value)
            if below or not isinstance(had.get(key), Mapping):
                patch[key] = below
        elif value is None:
            if had.get(key) is not None:
                patch[key] = None
        elif had.get(key) != value:
            patch[key] = value
    return patch


def merged(
    has: Iterable[Mapping[str, Json]], wanted: Iterable[Condition], generation: int,
    now: Callable[[], datetime.datetime] = wall_clock,
) -> list[dict[str, Json]]:  # fmt: skip
    """Conditions with these put into them; a time changes only where the status does.

    Others' conditions stay, and so does the order.
    """
    result = [dict(one) for one in has]
    for condition in wanted:
        status = {True: "True", False: "False", None: "Unknown"}[condition.status]
        entry: dict[str, Json] = {
            "type": condition.type,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
        }
        old = next((one for one in result if one.get("type") == condition.type), None)
        if old is not None and old.get("status") == status and "lastTransitionTime" in old:
            entry["lastTransitionTime"] = old["lastTransitionTime"]
        else:
            entry["lastTransitionTime"] = now().strftime("%Y-%m-%dT%H:%M:%SZ")
        if old is None:
            result.append(entry)
        else:
            old.clear()
            old.update(entry)
    return result


async def write_status(
    client: Client, resource: Resource[Any], metadata: Meta, has: Json, wanted: Mapping[str, Json]
) -> Written:
    """Make the status of this very object have these fields.

    Args:
        client: an open client.
        resource: its resource, which has a status subresource.
        metadata: of the object that the status is about; its version guards the write, since a
            patch of a custom object's status is taken whatever uid it names.
        has: the status as the cache has it.
        wanted: the fields that we want, as `difference` reads them.

    Raises:
        KubeError: the write failed for another reason than that the object is gone or changed.
    """
    patch = difference(has, wanted)
    if not patch:
        return Written.SAME
    body = {"metadata": _version(metadata), "status": patch}
    return await _guarded(client, resource, metadata, body, "status")


async def annotate(
    client: Client, resource: Resource[Any], obj: HasMeta, wanted: Mapping[str, str | None]
) -> Written:
    """Give this very object these annotations; None takes one away, the others stay.

    Others write to it meanwhile: only its uid guards the write.

    Raises:
        KubeError: as write_status.
    """
    metadata = obj.metadata
    patch = {name: text for name, text in wanted.items() if metadata.annotations.get(name) != text}
    if not patch:
        return Written.SAME
    body = {"metadata": {"uid": metadata.uid, "annotations": patch}}
    return await _guarded(client, resource, metadata, body, "")


def _version(metadata: Meta) -> dict[str, Json]:
    return {"uid": metadata.uid, "resourceVersion": metadata.resource_version}


async def set_finalizer(
    client: Client, resource: Resource[Any], obj: HasMeta, name: str, *, present: bool
) -> Written:
    """Put our finalizer on an object, or take it away; the others' stay.

    The list is written whole, so the write names the version that it was read from.

    Raises:
        KubeError: as write_status.
    """
    metadata = obj.metadata
    has = list(metadata.finalizers)
    if (name in has) is present:
        return Written.SAME
    wanted = [*has, name] if present else [one for one in has if one != name]
    body = {"metadata": {**_version(metadata), "finalizers": wanted}}
    return await _guarded(client, resource, metadata, body, "")


async def _guarded(
    client: Client, resource: Resource[Any], metadata: Meta, body: Mapping[str, Json], sub: str
) -> Written:
    try:
        answer = await client.merge(resource, key_of(metadata), body, sub)
    except ApiError as problem:
        if problem.code == 404:
            return Written.GONE
        if problem.is_conflict:
            return Written.GONE if "UID" in problem.api_message else Written.CONFLICT
        if problem.code == 422 and "metadata.uid" in problem.api_message:
            return Written.GONE
        raise
    # A write that changes nothing makes no version, and nobody is told of it.
    same = answer.metadata.resource_version == metadata.resource_version
    return Written.SAME if same else Written.DONE
