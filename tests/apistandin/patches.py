"""The patches that the API takes, but for server-side apply: merge, JSON and strategic merge."""

from __future__ import annotations

import copy
from typing import Any

from tests.apistandin.failure import Failure, Object, bad_request, not_implemented

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
APPLY_CBOR = "application/apply-patch+cbor"
ALL = (JSON, MERGE, STRATEGIC, APPLY)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: null takes away, objects are merged, all else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result: Object = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def _unprocessable(message: str) -> Failure:
    return Failure(422, "Invalid", message)


def json_patch(target: Object, operations: Any) -> Object:
    """RFC 6902; a failing `test` or a path that is not there fails the whole patch."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    box: Object = {"root": copy.deepcopy(target)}
    for entry in operations:
        if not isinstance(entry, dict) or "op" not in entry or "path" not in entry:
            raise bad_request(f"not an operation of JSON patch: {entry!r}")
        _operate(box, entry)
    return dict(box["root"])


def _operate(box: Object, entry: Object) -> None:
    name, path = entry["op"], _tokens(entry["path"])
    if name in ("add", "replace", "test") and "value" not in entry:
        raise bad_request(f"{name} without a value")
    if name == "test":
        if _read(box, path) != entry["value"]:
            raise _unprocessable(f"testing path {entry['path']} failed")
    elif name == "remove":
        _remove(box, path)
    elif name == "replace":
        _read(box, path)
        _remove(box, path)
        _add(box, path, entry["value"])
    elif name == "add":
        _add(box, path, entry["value"])
    elif name in ("move", "copy"):
        source = _tokens(entry.get("from", ""))
        value = copy.deepcopy(_read(box, source))
        if name == "move":
            _remove(box, source)
        _add(box, path, value)
    else:
        raise bad_request(f"no operation of JSON patch: {name}")


def _tokens(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise bad_request(f"not a JSON pointer: {path}")
    parts = path.split("/")[1:] if path else []
    return ["root", *(part.replace("~1", "/").replace("~0", "~") for part in parts)]


def _step(at: Any, token: str, path: list[str]) -> Any:
    try:
        return at[int(token)] if isinstance(at, list) else at[token]
    except (KeyError, IndexError, ValueError, TypeError):
        raise _unprocessable(f"there is nothing at /{'/'.join(path[1:])}") from None


def _read(box: Object, path: list[str]) -> Any:
    at: Any = box
    for token in path:
        at = _step(at, token, path)
    return at


def _add(box: Object, path: list[str], value: Any) -> None:
    parent, last = _read(box, path[:-1]), path[-1]
    if isinstance(parent, list):
        try:
            position = len(parent) if last == "-" else int(last)
        except ValueError:
            raise _unprocessable(f"no place in a list: {last}") from None
        if not 0 <= position <= len(parent):
            raise _unprocessable(f"index {position} is beyond the list")
        parent.insert(position, copy.deepcopy(value))
    elif isinstance(parent, dict):
        parent[last] = copy.deepcopy(value)
    else:
        raise _unprocessable(f"/{'/'.join(path[1:-1])} holds nothing")


def _remove(box: Object, path: list[str]) -> None:
    parent = _read(box, path[:-1])
    _step(parent, path[-1], path)
    if isinstance(parent, list):
        del parent[int(path[-1])]
    else:
        del parent[path[-1]]


def strategic(target: Any, patch: Any, schema: Object) -> Any:
    """A strategic merge patch: lists with a merge key are merged by it, as the schema says."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    _known_directives(patch)
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    result: Object = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key == "$patch":
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            result[field] = [item for item in result.get(field) or [] if item not in value]
            continue
        below = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
        if value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _strategic_list(result.get(key), value, below)
        else:
            result[key] = strategic(result.get(key), value, below)
    return result


def _known_directives(patch: Object) -> None:
    for key, value in patch.items():
        if key.startswith(("$setElementOrder", "$retainKeys")):
            raise not_implemented(f"the directive {key} of strategic merge patches")
        if key == "$patch" and value not in ("merge", "replace", "delete"):
            raise bad_request(f"Unknown patch type: {value}")


def _strategic_list(target: Any, patch: list[Any], schema: Object) -> list[Any]:
    old: list[Any] = copy.deepcopy(target) if isinstance(target, list) else []
    key = schema.get("x-patch-merge-key")
    if key is None and schema.get("x-kubernetes-list-type") == "set":
        return old + [item for item in patch if item not in old]
    if key is None:
        return copy.deepcopy(patch)
    if any(item == {"$patch": "replace"} for item in patch):
        return [item for item in patch if item != {"$patch": "replace"}]
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        position = next((at for at, has in enumerate(old) if has.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if position is not None:
                del old[position]
        elif position is None:
            old.append({name: value for name, value in item.items() if name != "$patch"})
        else:
            old[position] = strategic(old[position], item, schema.get("items", {}))
    return old
