"""Structural schemas (apiextensions v1): pruning, defaulting and validation of values."""

from __future__ import annotations

import copy
import datetime
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.apistandin.failure import Cause, Object

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
EMBEDDED = "x-kubernetes-embedded-resource"
LIST_TYPE = "x-kubernetes-list-type"
MAP_KEYS = "x-kubernetes-list-map-keys"
RULES = "x-kubernetes-validations"

TYPE_META = ("apiVersion", "kind", "metadata")


def prune(value: Any, schema: Object, path: str = "", *, root: bool = False) -> list[str]:
    """Take away, in place, what the schema does not name; the paths that were taken."""
    gone: list[str] = []
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        additional = schema.get("additionalProperties")
        keep = schema.get(PRESERVE, False)
        kept = TYPE_META if root or schema.get(EMBEDDED) else ()
        for key in list(value):
            where = f"{path}.{key}" if path else key
            if key in properties and not (root and key in TYPE_META):
                gone += prune(value[key], properties[key], where)
            elif key in kept:
                continue
            elif isinstance(additional, dict):
                gone += prune(value[key], additional, where)
            elif additional is not True and not keep:
                del value[key]
                gone.append(where)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value):
            gone += prune(item, schema["items"], f"{path}[{number}]")
    return gone


def default(value: Any, schema: Object) -> None:
    """Fill in defaults, in place; a null where null is not allowed counts as absent."""
    if isinstance(value, dict):
        for key, below in schema.get("properties", {}).items():
            if key in value and value[key] is None and not below.get("nullable"):
                del value[key]
            if key not in value and "default" in below:
                value[key] = copy.deepcopy(below["default"])
            if key in value:
                default(value[key], below)
        additional = schema.get("additionalProperties")
        if isinstance(additional, dict):
            for key in value:
                if key not in schema.get("properties", {}):
                    default(value[key], additional)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            default(item, schema["items"])


def validate(value: Any, schema: Object, path: str = "") -> Iterator[Cause]:
    """What is wrong with a value. CEL rules are not looked at here."""
    if value is None:
        if not schema.get("nullable") and schema.get("type"):
            yield Cause(path, f'Invalid value: "null": must be of type {schema["type"]}')
        return
    if wrong := _wrong_type(value, schema):
        yield Cause(path, wrong, "FieldValueTypeInvalid")
        return
    if "enum" in schema and value not in schema["enum"]:
        listed = ", ".join(f'"{item}"' for item in schema["enum"])
        text = f'Unsupported value: "{value}": supported values: {listed}'
        yield Cause(path, text, "FieldValueNotSupported")
    yield from _bounds(value, schema, path)
    yield from _logic(value, schema, path)
    if isinstance(value, dict):
        yield from _validate_object(value, schema, path)
    elif isinstance(value, list):
        yield from _validate_list(value, schema, path)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def _json_type(value: Any) -> str:
    return next((name for name, test in _TYPES.items() if test(value)), "null")


def _wrong_type(value: Any, schema: Object) -> str | None:
    if schema.get(INT_OR_STRING):
        fits = _TYPES["integer"](value) or isinstance(value, str)
        wanted = "integer or string"
    else:
        wanted = schema.get("type", "")
        fits = not wanted or _TYPES[wanted](value)
    if fits:
        return None
    return f'Invalid value: "{_json_type(value)}": must be of type {wanted}: "{_json_type(value)}"'


_BOUNDS: tuple[tuple[str, str, Callable[[Any], Any], Callable[[Any, Any], bool], str], ...] = (
    ("minimum", "number", lambda v: v, lambda v, b: v >= b, "should be greater than or equal to"),
    ("maximum", "number", lambda v: v, lambda v, b: v <= b, "should be less than or equal to"),
    ("minLength", "string", len, lambda v, b: v >= b, "should be at least this many characters:"),
    ("maxLength", "string", len, lambda v, b: v <= b, "may not be more characters than"),
    ("minItems", "array", len, lambda v, b: v >= b, "should have at least this many items:"),
    ("maxItems", "array", len, lambda v, b: v <= b, "must have at most this many items:"),
    ("minProperties", "object", len, lambda v, b: v >= b, "should have so many properties:"),
    ("maxProperties", "object", len, lambda v, b: v <= b, "must have at most so many properties:"),
)


def _bounds(value: Any, schema: Object, path: str) -> Iterator[Cause]:
    for keyword, kind, measure, holds, text in _BOUNDS:
        if keyword not in schema or not _TYPES[kind](value):
            continue
        bound = schema[keyword]
        exclusive = schema.get(
            {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}.get(keyword, ""), False
        )
        if not holds(measure(value), bound) or (exclusive and value == bound):
            yield Cause(path, f"Invalid value: {value!r}: {path} in body {text} {bound}")
    if "multipleOf" in schema and _TYPES["number"](value) and value % schema["multipleOf"]:
        yield Cause(path, f"Invalid value: {value}: is no multiple of {schema['multipleOf']}")
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            text = f"{path} in body should match '{schema['pattern']}'"
            yield Cause(path, f'Invalid value: "{value}": {text}')
        test = _FORMATS.get(schema.get("format", ""))
        if test is not None and not test(value):
            text = f"{path} in body must be of type {schema['format']}"
            yield Cause(path, f'Invalid value: "{value}": {text}: "{value}"')


def parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return test


_is_interface = parses(lambda text: ipaddress.ip_interface(text))
_FORMATS: dict[str, Callable[[str], bool]] = {
    "ipv4": parses(ipaddress.IPv4Address),
    "ipv6": parses(ipaddress.IPv6Address),
    "cidr": lambda text: "/" in text and _is_interface(text),
    "mac": lambda text: bool(re.fullmatch(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}", text)),
    "date-time": parses(datetime.datetime.fromisoformat),
    "date": parses(datetime.date.fromisoformat),
    "uuid": lambda text: bool(
        re.fullmatch(r"(?i)[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", text)
    ),
}
"""Formats that are checked; the API ignores those that it does not know."""


def _fits(value: Any, schema: Object) -> bool:
    return next(validate(value, schema), None) is None


def _logic(value: Any, schema: Object, path: str) -> Iterator[Cause]:
    for part in schema.get("allOf", ()):
        yield from validate(value, part, path)
    if "anyOf" in schema and not any(_fits(value, part) for part in schema["anyOf"]):
        yield Cause(path, f'Invalid value: "": "{path}" must validate at least one schema (anyOf)')
    if "oneOf" in schema and sum(_fits(value, part) for part in schema["oneOf"]) != 1:
        text = f'"{path}" must validate one and only one schema (oneOf)'
        yield Cause(path, f'Invalid value: "": {text}')
    if "not" in schema and _fits(value, schema["not"]):
        yield Cause(path, f'Invalid value: "": "{path}" must not validate the schema (not)')


def _validate_object(value: Object, schema: Object, path: str) -> Iterator[Cause]:
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            where = f"{path}.{key}" if path else key
            yield Cause(where, "Required value", "FieldValueRequired")
    additional = schema.get("additionalProperties")
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        if key in properties:
            yield from validate(item, properties[key], where)
        elif isinstance(additional, dict):
            yield from validate(item, additional, where)


def _validate_list(value: list[Any], schema: Object, path: str) -> Iterator[Cause]:
    for number, item in enumerate(value):
        yield from validate(item, schema.get("items", {}), f"{path}[{number}]")
    kind = schema.get(LIST_TYPE)
    seen: list[Any] = []
    for number, item in enumerate(value):
        if kind == "map" and isinstance(item, dict):
            key: Any = {name: item.get(name) for name in schema.get(MAP_KEYS, ())}
        elif kind == "set":
            key = item
        else:
            return
        if key in seen:
            yield Cause(f"{path}[{number}]", f"Duplicate value: {key}", "FieldValueDuplicate")
        seen.append(key)
