"""managedFields: which manager set which field, and server-side apply on top of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.apistandin.failure import Cause, Object
from tests.apistandin.structural import LIST_TYPE, MAP_KEYS

Path = tuple[str, ...]
"""Elements as fieldsV1 writes them: `f:name`, `k:{...}`, `v:value`."""

ABSENT = object()
ITEM = object()
"""What stands for an item of a keyed list as such."""

_NOT_MANAGED = frozenset(
    {
        "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp",
        "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink",
        "generateName",
    }
)  # fmt: skip


@dataclass(slots=True)
class Manager:
    """One entry of managedFields."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""
    time: str = ""
    fields: set[Path] = field(default_factory=set)

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.name, self.operation, self.subresource


def leaves(obj: Object, schema: Object) -> dict[Path, Any]:
    """Every field that can be owned, and its value; without what nobody manages."""
    rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    metadata = rest.get("metadata") or {}
    rest["metadata"] = {key: value for key, value in metadata.items() if key not in _NOT_MANAGED}
    if not rest["metadata"]:
        del rest["metadata"]
    return dict(_walk(rest, schema, ())) if rest else {}


def _walk(value: Any, schema: Object, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value and schema.get("x-kubernetes-map-type") != "atomic":
        for key, item in value.items():
            yield from _walk(item, below(schema, key), (*path, f"f:{key}"))
    elif isinstance(value, list) and schema.get(LIST_TYPE) == "map":
        for item in value:
            at = (*path, item_key(item, schema))
            yield at, ITEM
            yield from _walk(item, schema.get("items", {}), at)
    elif isinstance(value, list) and schema.get(LIST_TYPE) == "set":
        for item in value:
            yield (*path, f"v:{json.dumps(item)}"), ITEM
    else:
        yield path, value


def below(schema: Object, key: str) -> Object:
    """The schema of a field."""
    found = schema.get("properties", {}).get(key)
    if found is None:
        found = schema.get("additionalProperties")
    return found if isinstance(found, dict) else {}


def item_key(item: Any, schema: Object) -> str:
    """The path element of an item of a keyed list."""
    names = schema.get(MAP_KEYS, ())
    properties = schema.get("items", {}).get("properties", {})
    keys = {}
    for name in names:
        default = properties.get(name, {}).get("default")
        value = item.get(name, default) if isinstance(item, dict) else default
        if value is not None:
            keys[name] = value
    return f"k:{json.dumps(keys, sort_keys=True, separators=(',', ':'))}"


def read(obj: Object) -> list[Manager]:
    """The managers that an object names."""
    return [
        Manager(
            entry.get("manager", ""),
            entry.get("operation", ""),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
            entry.get("time", ""),
            set(_paths(entry.get("fieldsV1") or {}, ())),
        )
        for entry in obj["metadata"].get("managedFields") or ()
    ]


def _paths(tree: Object, at: Path) -> Iterator[Path]:
    for element, rest in tree.items():
        if element == ".":
            yield at
        elif rest:
            yield from _paths(rest, (*at, element))
        else:
            yield (*at, element)


def _tree(paths: set[Path]) -> Object:
    root: Object = {}
    for path in sorted(paths):
        at = root
        for element in path:
            at = at.setdefault(element, {})
    for path in paths:
        at = root
        for element in path:
            at = at[element]
        # An item or an object that is owned itself, beside fields in it.
        if at:
            at["."] = {}
    return root


def write(obj: Object, managers: list[Manager]) -> None:
    """Put the managers into an object, without those that own nothing."""
    entries = []
    for manager in managers:
        if not manager.fields:
            continue
        entry: Object = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": manager.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _tree(manager.fields),
        }
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def after_update(
    before: Object | None, after: Object, schema: Object, who: Manager
) -> list[Manager]:
    """The managers once `who` wrote what is new or different in `after`."""
    old = leaves(before, schema) if before else {}
    new = leaves(after, schema)
    changed = {path for path, value in new.items() if old.get(path, ABSENT) != value}
    managers = read(before) if before else []
    mine = next((one for one in managers if one.identity == who.identity), None)
    if changed:
        if mine is None:
            mine = who
            managers.append(mine)
        mine.time, mine.api_version = who.time, who.api_version
    for manager in managers:
        manager.fields &= new.keys()
        if manager is mine:
            manager.fields |= changed
        else:
            manager.fields -= changed
    return managers


@dataclass(frozen=True, slots=True)
class Applied:
    """What a server-side apply comes to."""

    obj: Object
    managers: list[Manager]


class Conflicts(Exception):
    """Fields that another manager owns and has otherwise."""

    def __init__(self, causes: list[Cause]) -> None:
        self.causes = causes
        count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
        listed = "; ".join(f"{cause.message}: {cause.field}" for cause in causes)
        super().__init__(f"Apply failed with {count}: {listed}")


def apply(live: Object, config: Object, schema: Object, who: Manager, *, force: bool) -> Applied:
    """Merge a configuration into the live object.

    Raises:
        Conflicts: fields differ that others own, and `force` is not set.
    """
    has, wanted = leaves(live, schema), leaves(config, schema)
    managers = read(live)
    mine = next((one for one in managers if one.identity == who.identity), None)
    others = [one for one in managers if one is not mine]
    causes = []
    for path, value in wanted.items():
        owners = [one for one in others if path in one.fields]
        if not owners or has.get(path, ABSENT) == value:
            continue
        causes += [
            Cause(dotted(path), _conflict_text(one), "FieldManagerConflict") for one in owners
        ]
        for owner in owners:
            owner.fields.discard(path)
    if causes and not force:
        raise Conflicts(causes)
    merged: Object = _merge(live, config, schema)
    owned_by_others: set[Path] = set().union(*(one.fields for one in others))
    # What was an empty object and has fields now is there for their sake.
    within = {path[:size] for path in wanted for size in range(1, len(path))}
    dropped = (mine.fields if mine else set()) - wanted.keys() - within - owned_by_others
    taken: set[Path] = set()
    for path in sorted(dropped, key=len):
        # An item of a list goes only if nobody else has a field in it, and goes as a whole: its
        # key may not be taken from it first.
        shared = any(other[: len(path)] == path for other in owned_by_others)
        if not shared and not any(path[: len(one)] == one for one in taken):
            _take_away(merged, path, schema)
            taken.add(path)
    unchanged = mine is not None and mine.fields == set(wanted) and merged == live
    entry = Manager(
        who.name, "Apply", who.api_version, who.subresource,
        mine.time if mine and unchanged else who.time, set(wanted),
    )  # fmt: skip
    order = [entry if one is mine else one for one in managers]
    return Applied(merged, order if mine else [*order, entry])


def _conflict_text(owner: Manager) -> str:
    using = "" if owner.operation == "Apply" else f" using {owner.api_version}"
    return f'conflict with "{owner.name}"{using}'


def dotted(path: Path) -> str:
    """A path as conflicts write it."""
    text = ""
    for element in path:
        sort, _, rest = element.partition(":")
        text += f".{rest}" if sort == "f" else f"[{sort}:{rest}]"
    return text


def _merge(live: Any, config: Any, schema: Object) -> Any:
    if (
        isinstance(live, dict)
        and isinstance(config, dict)
        and schema.get("x-kubernetes-map-type") != "atomic"
    ):
        merged = dict(live)
        for key, value in config.items():
            merged[key] = _merge(live.get(key), value, below(schema, key))
        return merged
    if isinstance(live, list) and isinstance(config, list):
        if schema.get(LIST_TYPE) == "set":
            return live + [item for item in config if item not in live]
        if schema.get(LIST_TYPE) == "map":
            return _merge_items(live, config, schema)
    return copy.deepcopy(config)


def _merge_items(live: list[Any], config: list[Any], schema: Object) -> list[Any]:
    wanted = {item_key(item, schema): item for item in config}
    merged = []
    for item in live:
        key = item_key(item, schema)
        if key in wanted:
            merged.append(_merge(item, wanted.pop(key), schema.get("items", {})))
        else:
            merged.append(item)
    return merged + [copy.deepcopy(item) for item in wanted.values()]


def _take_away(obj: Object, path: Path, schema: Object) -> None:
    """Delete a field or an item in place, copying on the way down what is shared."""
    at: Any = obj
    for element in path[:-1]:
        inside = _inside(at, element, schema)
        if inside is None:
            return
        place, schema = inside
        at[place] = copy.copy(at[place])
        at = at[place]
    last = path[-1]
    if isinstance(at, dict):
        at.pop(last.removeprefix("f:"), None)
    elif isinstance(at, list):
        at[:] = [item for item in at if last not in (item_key(item, schema), _value(item))]


def _inside(at: Any, element: str, schema: Object) -> tuple[Any, Object] | None:
    if isinstance(at, dict):
        name = element.removeprefix("f:")
        return (name, below(schema, name)) if name in at else None
    if isinstance(at, list):
        for number, item in enumerate(at):
            if item_key(item, schema) == element:
                return number, schema.get("items", {})
    return None


def _value(item: Any) -> str:
    return f"v:{json.dumps(item)}"


def with_metadata(schema: Object, metadata: Mapping[str, Any]) -> Object:
    """A schema in which metadata is known, for walking whole objects."""
    return {**schema, "properties": {**schema.get("properties", {}), "metadata": dict(metadata)}}
