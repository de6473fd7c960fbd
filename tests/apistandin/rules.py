"""Validation rules of CRDs, applied to an object: x-kubernetes-validations, with transitions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.apistandin import cel
from tests.apistandin.failure import Cause, Object
from tests.apistandin.managed import below, item_key
from tests.apistandin.structural import LIST_TYPE, RULES

ABSENT = object()


def broken(value: Any, schema: Object, path: str = "", old: Any = ABSENT) -> Iterator[Cause]:
    """The rules that do not hold; a rule about oldSelf counts only where there is an old value."""
    for rule in schema.get(RULES) or ():
        if re.search(r"\boldSelf\b", rule["rule"]) and old is ABSENT:
            continue
        scope = {"self": value} if old is ABSENT else {"self": value, "oldSelf": old}
        try:
            holds = cel.compile_rule(rule["rule"])(scope)
        except cel.EvaluationProblem as problem:
            yield Cause(path or "<nil>", f"Invalid value: rule {rule['rule']!r}: {problem}")
            continue
        if holds is not True:
            message = _message(rule, scope)
            yield Cause(
                path + rule.get("fieldPath", "") or "<nil>",
                f"Invalid value: {message}",
                rule.get("reason", "FieldValueInvalid"),
            )
    if isinstance(value, dict):
        for key, item in value.items():
            was = old.get(key, ABSENT) if isinstance(old, dict) else ABSENT
            yield from broken(item, below(schema, key), f"{path}.{key}" if path else key, was)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        # Items are the same from one version to the next only where they have keys.
        named: dict[str, Any] = {}
        if schema.get(LIST_TYPE) == "map" and isinstance(old, list):
            named = {item_key(item, schema): item for item in old}
        for number, item in enumerate(value):
            was = named.get(item_key(item, schema), ABSENT) if named else ABSENT
            yield from broken(item, schema["items"], f"{path}[{number}]", was)


def _message(rule: Object, scope: dict[str, Any]) -> str:
    if expression := rule.get("messageExpression"):
        try:
            return str(cel.compile_rule(expression)(scope))
        except cel.EvaluationProblem:
            pass
    return str(rule.get("message") or f"failed rule: {rule['rule']}")
