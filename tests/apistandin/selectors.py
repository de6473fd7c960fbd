"""Label selectors and field selectors, as texts and as predicates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.apistandin.failure import Object, bad_request

Predicate = Callable[[Object], bool]

_KEY = r"(?:[A-Za-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)?"
_EQUAL = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^)]*)\)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_COMMA_OUTSIDE = re.compile(r",(?![^(]*\))")


def everything(_object: Object) -> bool:
    """What no selector selects."""
    return True


def labels(text: str) -> Predicate:
    """The predicate of a label selector; an empty text selects everything."""
    if not text.strip():
        return everything
    tests = [_label_term(term.strip()) for term in _COMMA_OUTSIDE.split(text)]

    def selects(obj: Object) -> bool:
        has = obj.get("metadata", {}).get("labels") or {}
        return all(test(has) for test in tests)

    return selects


def _label_term(term: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.fullmatch(term):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda has: has.get(key) in values
        return lambda has: key not in has or has[key] not in values
    if found := _EQUAL.fullmatch(term):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda has: has.get(key) != value
        return lambda has: has.get(key) == value
    if found := _EXISTS.fullmatch(term):
        absent, key = found.groups()
        return (lambda has: key not in has) if absent else (lambda has: key in has)
    raise bad_request(f'unable to parse requirement: found "{term}"')


def fields(text: str, selectable: Mapping[str, tuple[str, ...]]) -> Predicate:
    """The predicate of a field selector over the paths that this kind can be selected by."""
    if not text.strip():
        return everything
    tests: list[tuple[tuple[str, ...], bool, str]] = []
    for term in text.split(","):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term.strip())
        if not found:
            raise bad_request(f'invalid selector: "{text}"; can\'t understand "{term}"')
        name, operator, value = found.groups()
        if name not in selectable:
            raise bad_request(f"field label not supported: {name}")
        tests.append((selectable[name], operator != "!=", value))

    def selects(obj: Object) -> bool:
        return all((field_text(obj, path) == value) is wanted for path, wanted, value in tests)

    return selects


def field_text(obj: Object, path: tuple[str, ...]) -> str:
    """The value at a path as a selector compares it: absent is the empty text."""
    at: Any = obj
    for part in path:
        if not isinstance(at, dict):
            return ""
        at = at.get(part)
    if at is None:
        return ""
    if isinstance(at, bool):
        return "true" if at else "false"
    return str(at)
