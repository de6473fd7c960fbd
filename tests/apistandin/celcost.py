"""What a validation rule may cost at most, which the API limits when a definition is created.

Coarse, and never below by much: each word of an expression counts one, each text that it names a
tenth of its longest length, a loop as often as its longest list has items; all that as often as the
place of the rule may come in one object. Sources: "Validation rules, resource use by validation
functions" (CRD concepts), and the limits of apiextensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.apistandin.failure import Cause, Object
from tests.apistandin.structural import INT_OR_STRING, LIST_TYPE, RULES

REQUEST_BYTES = 3 * 1024 * 1024
"""Of one request: what bounds a text or a list that its schema does not bound."""
MOST_OF_RULE, MOST_OF_ALL = 10_000_000, 100_000_000
_LOOP = re.compile(r"\.(all|exists|exists_one|map|filter)\(")
_PATH = re.compile(r"\b(?:self|oldSelf)((?:\.[A-Za-z_][A-Za-z0-9_]*)*)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|==|!=|<=|>=|&&|\|\||[-+*/%!<>?]|'[^']*'|\"[^\"]*\"|\d+")
_SHORTEST = {"string": 2, "integer": 1, "number": 1, "boolean": 4, "object": 2, "array": 2}


def problems(schema: Object, path: str) -> Iterator[Cause]:
    """Rules that may cost too much, each and together."""
    total = 0
    for place, rule, often, below in _rules(schema, path, 1):
        cost = _cost(rule, below) * often
        total += cost
        if cost > MOST_OF_RULE:
            times = cost / MOST_OF_RULE
            text = f"Forbidden: estimated rule cost exceeds budget by factor of {times:.1f}x (try "
            text += "simplifying the rule, or adding maxItems, maxProperties, and maxLength where "
            text += "arrays, maps, and strings are declared)"
            yield Cause(place, text, "FieldValueForbidden")
    if total > MOST_OF_ALL:
        text = "Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 "
        yield Cause(path, text + "schema exceeds budget", "FieldValueForbidden")


def _rules(schema: Object, path: str, often: int) -> Iterator[tuple[str, str, int, Object]]:
    for number, rule in enumerate(schema.get(RULES) or ()):
        yield f"{path}.{RULES}[{number}].rule", rule.get("rule", ""), often, schema
    for name, below in schema.get("properties", {}).items():
        yield from _rules(below, f"{path}.properties[{name}]", often)
    for key in ("items", "additionalProperties"):
        below = schema.get(key)
        if isinstance(below, dict):
            yield from _rules(below, f"{path}.{key}", often * longest(schema))


def longest(schema: Object) -> int:
    """The most characters, items or properties that a value may have."""
    kind = schema.get("type")
    if kind == "string" or schema.get(INT_OR_STRING):
        listed = max((len(str(one)) for one in schema.get("enum", ())), default=0)
        return int(schema.get("maxLength") or listed or REQUEST_BYTES)
    if kind == "array":
        return int(schema.get("maxItems") or REQUEST_BYTES // (_shortest(schema["items"]) + 1))
    if isinstance(below := schema.get("additionalProperties"), dict):
        return int(schema.get("maxProperties") or REQUEST_BYTES // (_shortest(below) + 4))
    return 1


def _shortest(schema: Object) -> int:
    """The fewest bytes of a value as JSON."""
    size = _SHORTEST.get(schema.get("type", ""), 1)
    for name in schema.get("required", ()):
        size += len(name) + 4 + _shortest(schema.get("properties", {}).get(name, {}))
    return size


def _cost(rule: str, schema: Object) -> int:
    words, texts, loops = len(_WORD.findall(rule)), 0, 1
    for match in _PATH.finditer(rule):
        at = schema
        for part in filter(None, match[1].split(".")):
            below = at.get("properties", {}).get(part)
            if below is None:  # a method, or what the definition does not name
                break
            at = below
        if at.get("type") == "string":
            texts += longest(at) // 10 + 1
        elif at.get("type") == "array" and (_LOOP.search(rule) or at.get(LIST_TYPE) == "set"):
            loops = max(loops, longest(at))
    return (words + texts) * loops
