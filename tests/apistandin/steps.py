"""Steps of a write that need no store: reading an object, completing it, comparing two."""

from __future__ import annotations

import copy
import datetime
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tests.apistandin import failure, managed, structural
from tests.apistandin.failure import Object
from tests.apistandin.kinds import Kind
from tests.apistandin.schemas import METADATA

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True)
class Options:
    """How a write is asked for."""

    manager: str = "unknown"
    strictness: str = "Warn"
    """fieldValidation: Ignore, Warn or Strict."""
    dry_run: bool = False
    force: bool = False


def decoded(
    kind: Kind, namespace: str, body: Object, options: Options, *, partial: bool = False
) -> tuple[Object, tuple[str, ...]]:
    """The object of a request: its own copy, of this kind, without unknown fields."""
    if body.get("apiVersion") != kind.api_version or body.get("kind") != kind.kind:
        given, wanted = (
            f"{body.get('apiVersion', '')}, Kind={body.get('kind', '')}",
            f"{kind.api_version}, Kind={kind.kind}",
        )
        raise failure.bad_request(f"the object provided is unrecognized: {given}, not {wanted}")
    obj = copy.deepcopy(body)
    metadata = obj.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise failure.bad_request("metadata is no object")
    for name in [name for name, value in metadata.items() if value is None]:
        del metadata[name]
    unknown = structural.prune(obj, kind.schema, root=True)
    unknown += structural.prune(metadata, METADATA, "metadata")
    if unknown and options.strictness == "Strict":
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise failure.bad_request(f"strict decoding error: {listed}")
    wrong = [*structural.validate(metadata, METADATA, "metadata")]
    if not kind.custom:
        wrong += [
            cause
            for cause in structural.validate(obj, kind.schema)
            if cause.reason == "FieldValueTypeInvalid"
        ]
    if wrong:
        text = f"{kind.kind} in version {kind.version!r} cannot be handled: "
        raise failure.bad_request(f"{text}{wrong[0].field}: {wrong[0].message}")
    if not kind.namespaced:
        metadata["namespace"] = ""
    if metadata.setdefault("namespace", namespace) != namespace:
        text = "the namespace of the provided object does not match the namespace sent on the "
        text += f"request: {metadata['namespace']}"
        raise failure.bad_request(text)
    if not kind.namespaced:
        del metadata["namespace"]
    if not partial:
        complete(kind, obj)
    warns = options.strictness == "Warn"
    return obj, tuple(f'unknown field "{path}"' for path in unknown) if warns else ()


def complete(kind: Kind, obj: Object) -> None:
    structural.default(obj, kind.schema)
    for key in ("labels", "annotations", "finalizers", "ownerReferences"):
        if not obj["metadata"].get(key, True):
            del obj["metadata"][key]


def check_delete_options(kind: Kind, before: Object, body: Object) -> None:
    metadata, name = before["metadata"], before["metadata"]["name"]
    policy = body.get("propagationPolicy")
    if policy not in (None, "Background"):
        raise failure.not_implemented(f"propagationPolicy {policy}: there is no garbage collector")
    if body.get("orphanDependents") is not None:
        raise failure.not_implemented("orphanDependents")
    wanted = body.get("preconditions") or {}
    for key, what in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(key) not in (None, metadata[key]):
            text = f"Precondition failed: {what} in precondition: {wanted[key]}, "
            text += f"{what} in object meta: {metadata[key]}"
            raise failure.conflict(kind.group, kind.plural, name, text)


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def whole(kind: Kind) -> Object:
    return managed.with_metadata(kind.schema, METADATA)


def served_as(kind: Kind, obj: Object) -> Object:
    """An object in the version that is asked for."""
    return obj if obj["apiVersion"] == kind.api_version else obj | {"apiVersion": kind.api_version}


def desired(kind: Kind, obj: Object) -> Object:
    without = {"metadata", "apiVersion"} | ({"status"} if kind.status else set())
    return {key: value for key, value in obj.items() if key not in without}


def same(before: Object, after: Object) -> bool:
    """Whether two objects differ in nothing but the times of managedFields."""

    def bare(obj: Object) -> Object:
        fields = [
            {key: value for key, value in entry.items() if key != "time"}
            for entry in obj["metadata"].get("managedFields") or ()
        ]
        return obj | {"metadata": obj["metadata"] | {"managedFields": fields}}

    return bare(before) == bare(after)


def success(kind: Kind, obj: Object) -> Object:
    metadata = obj["metadata"]
    details: Mapping[str, str] = {
        "name": metadata["name"],
        "kind": kind.plural,
        "uid": metadata["uid"],
    }
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {**details, **({"group": kind.group} if kind.group else {})},
    }


def generated(prefix: str, taken: Collection[str], chance: random.Random) -> str:
    """A name that nobody has, as generateName asks for one."""
    while True:
        # A generated name has 63 characters at most, however long what it begins with is.
        name = prefix[:58] + "".join(chance.choices(_SUFFIX_LETTERS, k=5))
        if name not in taken:
            return name
