"""Custom resource definitions: what makes one acceptable, and the kinds that it brings."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from tests.apistandin import cel, celcost, structural
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
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_PROTECTED = re.compile(r"(.*\.)?(k8s|kubernetes)\.io")
_APPROVED = "api-approved.kubernetes.io"
_COLUMN_TYPES = frozenset({"integer", "number", "string", "boolean", "date"})
_COLUMN_FORMATS = frozenset(
    {"", "int32", "int64", "float", "double", "byte", "date", "date-time", "password"}
)
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean"})
_NOT_RE2 = re.compile(r"\(\?(?:[=!]|<[=!])|\\[1-9]")
"""What regular expressions of Go do not have: looking around, and referring back."""


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
    yield from _check_names(names)
    group = spec.get("group") or ""
    if not group:
        yield Cause("spec.group", "Required value", "FieldValueRequired")
    elif "." not in group:
        yield Cause("spec.group", "Invalid value: should be a domain with at least one dot")
    said = (crd["metadata"].get("annotations") or {}).get(_APPROVED, "")
    if _PROTECTED.fullmatch(group) and not said.startswith(("unapproved", "https://", "http://")):
        where = f"metadata.annotations[{_APPROVED}]"
        yield Cause(where, "Required value: protected groups must have it", "FieldValueRequired")
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


def _check_names(names: Object) -> Iterator[Cause]:
    words = {key: names.get(key) or "" for key in ("plural", "singular")}
    words |= {key: (names.get(key) or "").lower() for key in ("kind", "listKind")}
    for key in ("shortNames", "categories"):
        words |= {f"{key}[{at}]": word for at, word in enumerate(names.get(key) or ())}
    for key, word in words.items():
        if word and not _LABEL.fullmatch(word):
            yield Cause(f"spec.names.{key}", f'Invalid value: "{word}": a DNS-1035 label must ...')
    if names.get("kind") and names["kind"] == names.get("listKind"):
        yield Cause("spec.names.listKind", "Invalid value: kind and listKind may not be the same")


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
    yield from celcost.problems(schema, where)
    for number, column in enumerate(version.get("additionalPrinterColumns") or ()):
        for key in ("name", "type", "jsonPath"):
            if not column.get(key):
                at = f"{path}.additionalPrinterColumns[{number}].{key}"
                yield Cause(at, "Required value", "FieldValueRequired")
        for key, known in (("type", _COLUMN_TYPES), ("format", _COLUMN_FORMATS)):
            if column.get(key, "") not in known | {""}:
                at = f"{path}.additionalPrinterColumns[{number}].{key}"
                yield Cause(at, f'Unsupported value: "{column[key]}"', "FieldValueNotSupported")


def _check_schema(
    schema: Object, path: str, *, top: bool = False, follows: bool = True
) -> Iterator[Cause]:
    """Structural: every value outside of logic has a type, and properties stand outside of it.

    `follows`: it can be told which older value a value was (`oldSelf`).
    """
    for key in schema:
        if key in _FORBIDDEN or (key == "uniqueItems" and schema[key]):
            yield Cause(f"{path}.{key}", "Forbidden: is not supported", "FieldValueForbidden")
        elif key not in _KEYWORDS and key != "uniqueItems":
            raise not_implemented(f"the keyword {key} of schemas ({path})")
    typed = schema.get("type") or schema.get(structural.INT_OR_STRING)
    if not typed and not schema.get(structural.PRESERVE):
        text = "Required value: must not be empty for specified object fields"
        yield Cause(f"{path}.type", text, "FieldValueRequired")
    yield from _check_words(schema, path)
    if top and "additionalProperties" in schema:
        text = "Forbidden: must not be used at the root"
        yield Cause(f"{path}.additionalProperties", text, "FieldValueForbidden")
    if schema.get("properties") and schema.get("additionalProperties"):
        text = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield Cause(f"{path}.additionalProperties", text, "FieldValueForbidden")
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        yield Cause(f"{path}.items", "Required value: must be specified", "FieldValueRequired")
    yield from _check_list_type(schema, path)
    for number, rule in enumerate(schema.get(structural.RULES) or ()):
        where = f"{path}.{structural.RULES}[{number}]"
        yield from _check_rule(rule, where)
        if not follows and "oldSelf" in rule.get("rule", ""):
            text = "Invalid value: oldSelf cannot be used on the uncorrelatable portion of the "
            yield Cause(f"{where}.rule", f"{text}schema")
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
        if top and key in structural.TYPE_META:
            continue
        yield from _check_schema(below, f"{path}.properties[{key}]", follows=follows)
    if isinstance(schema.get("items"), dict):
        keyed = follows and schema.get(structural.LIST_TYPE) == "map"
        yield from _check_schema(schema["items"], f"{path}.items", follows=keyed)
    if isinstance(schema.get("additionalProperties"), dict):
        below = schema["additionalProperties"]
        yield from _check_schema(below, f"{path}.additionalProperties", follows=follows)
    if "default" in schema:
        yield from structural.validate(schema["default"], schema, f"{path}.default")
        for gone in structural.prune(copy.deepcopy(schema["default"]), schema):
            text = "Invalid value: must be the same as the value after pruning"
            yield Cause(f"{path}.default.{gone}", text)


def _check_words(schema: Object, path: str) -> Iterator[Cause]:
    kind = schema.get("type")
    if kind is not None and kind not in _TYPES:
        yield Cause(f"{path}.type", f'Unsupported value: "{kind}"', "FieldValueNotSupported")
    if kind and schema.get(structural.INT_OR_STRING):
        text = "Forbidden: must be empty if x-kubernetes-int-or-string is true"
        yield Cause(f"{path}.type", text, "FieldValueForbidden")
    if schema.get("additionalProperties") is False:
        text = "Forbidden: additionalProperties cannot be set to false"
        yield Cause(f"{path}.additionalProperties", text, "FieldValueForbidden")
    if schema.get(structural.PRESERVE) is False:
        text = "Invalid value: false: must be true or undefined"
        yield Cause(f"{path}.{structural.PRESERVE}", text)
    if _NOT_RE2.search(schema.get("pattern", "")):
        text = f"Invalid value: {schema['pattern']!r}: must be a valid regular expression"
        yield Cause(f"{path}.pattern", text)
    if "x-kubernetes-map-type" in schema and kind != "object":
        yield Cause(f"{path}.type", "Invalid value: must be object if x-kubernetes-map-type is set")
    if schema.get(structural.EMBEDDED):
        if kind != "object":
            yield Cause(f"{path}.type", "Invalid value: must be object for embedded resources")
        if not schema.get("properties") and not schema.get(structural.PRESERVE):
            text = "Required value: must not be empty if it is an embedded resource"
            yield Cause(f"{path}.properties", text, "FieldValueRequired")


def _check_list_type(schema: Object, path: str) -> Iterator[Cause]:
    kind, items = schema.get(structural.LIST_TYPE), schema.get("items") or {}
    if kind is None:
        return
    if schema.get("type") != "array":
        yield Cause(f"{path}.type", "Invalid value: must be array if x-kubernetes-list-type is set")
    if kind not in ("atomic", "set", "map"):
        where = f"{path}.{structural.LIST_TYPE}"
        yield Cause(where, f'Unsupported value: "{kind}"', "FieldValueNotSupported")
    if kind in ("set", "map") and items.get("nullable"):
        text = "Forbidden: cannot be nullable when x-kubernetes-list-type is set or map"
        yield Cause(f"{path}.items.nullable", text, "FieldValueForbidden")
    if kind == "set":
        whole = items.get("type") == "object" and items.get("x-kubernetes-map-type") == "atomic"
        listed = items.get("type") == "array" and items.get(structural.LIST_TYPE) == "atomic"
        if items.get("type") in ("object", "array") and not (whole or listed):
            yield Cause(f"{path}.items", "Invalid value: items of a set must be scalar or atomic")
    if kind == "map":
        yield from _check_map_keys(schema, path)


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
        elif below.get("type") in ("object", "array"):
            text = f'Invalid value: "{below["type"]}": must be a scalar type'
            yield Cause(f"{path}.items.properties[{key}].type", text)
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
    for key in ("rule", "message"):
        if "\n" in rule.get(key, "").strip() and (key == "message" or not rule.get("message")):
            yield Cause(f"{path}.message", "Invalid value: line breaks need a message without any")
    if not rule.get("fieldPath", ".").startswith((".", "[")):
        yield Cause(f"{path}.fieldPath", "Invalid value: must be a path of fields")
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
