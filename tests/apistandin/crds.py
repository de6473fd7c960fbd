"""Custom resource definitions: what makes one acceptable, and the kinds that it brings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.apistandin import cel, structural
from tests.apistandin.failure import Cause, Object, not_implemented
from tests.apistandin.kinds import Kind

_KEYWORDS = frozenset(
    {
        "type", "properties", "items", "additionalProperties", "required", "description", "title",
        "default", "nullable", "enum", "format", "pattern", "minimum", "maximum", "minLength",
        "exclusiveMinimum", "exclusiveMaximum", "maxLength", "minItems", "maxItems", "multipleOf",
        "minProperties", "maxProperties", "allOf", "anyOf", "oneOf", "not", "example",
        "externalDocs", structural.PRESERVE, structural.INT_OR_STRING, structural.EMBEDDED,
        structural.LIST_TYPE, structural.MAP_KEYS, structural.RULES, "x-kubernetes-map-type",
    }
)  # fmt: skip
_FORBIDDEN = frozenset(
    {"$ref", "$schema", "id", "definitions", "dependencies", "patternProperties", "additionalItems"}
)
_LOGIC = ("allOf", "anyOf", "oneOf")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def check(crd: Object) -> Iterator[Cause]:
    """What is wrong with a definition.

    Raises:
        Failure: 501, it asks for something that the stand-in does not do.
    """
    spec = crd["spec"]
    names = spec.get("names") or {}
    for key in ("plural", "kind"):
        if not names.get(key):
            yield Cause(f"spec.names.{key}", "Required value", "FieldValueRequired")
    if not spec.get("group"):
        yield Cause("spec.group", "Required value", "FieldValueRequired")
    if spec.get("scope") not in ("Namespaced", "Cluster"):
        text = f'Unsupported value: "{spec.get("scope")}"'
        yield Cause("spec.scope", text, "FieldValueNotSupported")
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if crd["metadata"].get("name") != wanted:
        yield Cause("metadata.name", 'Invalid value: must be spec.names.plural+"."+spec.group')
    if (spec.get("conversion") or {}).get("strategy", "None") != "None":
        raise not_implemented("conversion webhooks")
    if spec.get("preserveUnknownFields"):
        text = "Invalid value: true: must be false in order to use defaults in the schema"
        yield Cause("spec.preserveUnknownFields", text)
    versions = spec.get("versions") or []
    if sum(1 for version in versions if version.get("storage")) != 1:
        text = "Invalid value: must have exactly one version marked as storage version"
        yield Cause("spec.versions", text)
    for number, version in enumerate(versions):
        yield from _check_version(version, f"spec.versions[{number}]")


def _check_version(version: Object, path: str) -> Iterator[Cause]:
    if not _LABEL.fullmatch(version.get("name") or ""):
        yield Cause(f"{path}.name", f'Invalid value: "{version.get("name")}"')
    if "scale" in (version.get("subresources") or {}):
        raise not_implemented("the scale subresource")
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if schema is None:
        yield Cause(f"{path}.schema.openAPIV3Schema", "Required value", "FieldValueRequired")
        return
    where = f"{path}.schema.openAPIV3Schema"
    if schema.get("type") != "object":
        yield Cause(f"{where}.type", "Invalid value: must be object at the root")
    yield from _check_schema(schema, where, top=True)
    for number, column in enumerate(version.get("additionalPrinterColumns") or ()):
        for key in ("name", "type", "jsonPath"):
            if not column.get(key):
                at = f"{path}.additionalPrinterColumns[{number}].{key}"
                yield Cause(at, "Required value", "FieldValueRequired")


def _check_schema(schema: Object, path: str, *, top: bool = False) -> Iterator[Cause]:
    """Structural: every value outside of logic has a type, and properties stand outside of it."""
    for key in schema:
        if key in _FORBIDDEN or (key == "uniqueItems" and schema[key]):
            yield Cause(f"{path}.{key}", "Forbidden: is not supported", "FieldValueForbidden")
        elif key not in _KEYWORDS and key != "uniqueItems":
            raise not_implemented(f"the keyword {key} of schemas ({path})")
    typed = schema.get("type") or schema.get(structural.INT_OR_STRING)
    if not typed and not schema.get(structural.PRESERVE):
        text = "Required value: must not be empty for specified object fields"
        yield Cause(f"{path}.type", text, "FieldValueRequired")
    if schema.get("properties") and schema.get("additionalProperties"):
        text = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield Cause(f"{path}.additionalProperties", text, "FieldValueForbidden")
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        yield Cause(f"{path}.items", "Required value: must be specified", "FieldValueRequired")
    if schema.get(structural.LIST_TYPE) == "map":
        yield from _check_map_keys(schema, path)
    for number, rule in enumerate(schema.get(structural.RULES) or ()):
        yield from _check_rule(rule, f"{path}.{structural.RULES}[{number}]")
    for branch in _LOGIC:
        for number, part in enumerate(schema.get(branch) or ()):
            yield from _check_logic(part, f"{path}.{branch}[{number}]", schema)
    if top:
        metadata = schema.get("properties", {}).get("metadata", {})
        known = set(metadata.get("properties", {})) <= {"name", "generateName"}
        if not known or set(metadata) - {"type", "properties", "description"}:
            text = "Forbidden: must not specify anything other than name and generateName"
            yield Cause(f"{path}.properties[metadata]", text, "FieldValueForbidden")
    for key, below in schema.get("properties", {}).items():
        yield from _check_schema(below, f"{path}.properties[{key}]")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _check_schema(schema[key], f"{path}.{key}")
    if "default" in schema:
        yield from structural.validate(schema["default"], schema, f"{path}.default")


def _check_map_keys(schema: Object, path: str) -> Iterator[Cause]:
    items = schema.get("items") or {}
    keys = schema.get(structural.MAP_KEYS) or ()
    if not keys:
        yield Cause(f"{path}.{structural.MAP_KEYS}", "Required value", "FieldValueRequired")
    for key in keys:
        below = items.get("properties", {}).get(key)
        if below is None:
            text = f'Invalid value: "{key}": entries must all be names of item properties'
            yield Cause(f"{path}.{structural.MAP_KEYS}", text)
        elif key not in items.get("required", ()) and "default" not in below:
            text = "Required value: this property is in x-kubernetes-list-map-keys, so it must "
            text += "have a default or be a required property"
            yield Cause(f"{path}.items.properties[{key}]", text, "FieldValueRequired")


def _check_logic(part: Object, path: str, outside: Object) -> Iterator[Cause]:
    for key in ("default", "description", "additionalProperties", "nullable", "title"):
        if key in part:
            text = "Forbidden: must not be in the logic of a structural schema"
            yield Cause(f"{path}.{key}", text, "FieldValueForbidden")
    if "type" in part and not outside.get(structural.INT_OR_STRING):
        yield Cause(f"{path}.type", "Forbidden: must be empty", "FieldValueForbidden")
    for key, below in part.get("properties", {}).items():
        if key not in outside.get("properties", {}):
            text = "Required value: because it is defined in the logic"
            yield Cause(f"properties[{key}]", text, "FieldValueRequired")
        else:
            yield from _check_logic(below, f"{path}.properties[{key}]", outside["properties"][key])


def _check_rule(rule: Object, path: str) -> Iterator[Cause]:
    if not rule.get("rule"):
        yield Cause(f"{path}.rule", "Required value", "FieldValueRequired")
        return
    for key in set(rule) - {"rule", "message", "messageExpression", "reason", "fieldPath"}:
        raise not_implemented(f"{key} of validation rules")
    for key in ("rule", "messageExpression"):
        if rule.get(key):
            try:
                cel.compile_rule(rule[key])
            except cel.SyntaxProblem as problem:
                yield Cause(f"{path}.{key}", f"Invalid value: compilation failed: {problem}")


def establish(crd: Object, time: str) -> Object:
    """The definition with the status that the API gives it."""
    spec = crd["spec"]
    names = dict(spec["names"])
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")
    spec["names"] = names
    spec.setdefault("conversion", {"strategy": "None"})
    storage = next(version["name"] for version in spec["versions"] if version.get("storage"))
    stored = (crd.get("status") or {}).get("storedVersions") or []
    reasons = {"NamesAccepted": "NoConflicts", "Established": "InitialNamesAccepted"}
    had = {one["type"]: one for one in (crd.get("status") or {}).get("conditions") or ()}
    crd["status"] = {
        "conditions": [
            had.get(kind)
            or {
                "type": kind,
                "status": "True",
                "reason": reason,
                "message": "no conflicts found"
                if kind == "NamesAccepted"
                else "the initial names have been accepted",
                "lastTransitionTime": time,
            }
            for kind, reason in reasons.items()
        ],
        "acceptedNames": names,
        "storedVersions": stored if storage in stored else [*stored, storage],
    }
    return crd


def kinds_of(crd: Object) -> list[Kind]:
    """The kinds that an accepted definition serves, one for each version."""
    spec = crd["spec"]
    names = spec["names"]
    served = [version for version in spec["versions"] if version.get("served")]
    storage = next(version["name"] for version in spec["versions"] if version.get("storage"))
    return [
        Kind(
            spec["group"],
            version["name"],
            names["plural"],
            names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            schema=version["schema"]["openAPIV3Schema"],
            status="status" in (version.get("subresources") or {}),
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            singular=names["singular"],
            list_kind=names["listKind"],
            selectable=_selectable(version),
            custom=True,
            unconditional=False,
            generation=True,
            api_versions=tuple(each["name"] for each in served),
            storage_version=storage,
        )
        for version in served
    ]


def _selectable(version: Object) -> dict[str, tuple[str, ...]]:
    paths: list[Any] = [entry["jsonPath"] for entry in version.get("selectableFields") or ()]
    return {path.lstrip("."): tuple(path.lstrip(".").split(".")) for path in paths}
