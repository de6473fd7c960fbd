"""What a request says: its verb, its parameters, its body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import yaml
from aiohttp import web

from tests.apistandin import failure
from tests.apistandin.failure import Failure, Object
from tests.apistandin.paths import Target
from tests.apistandin.steps import Options

_YAML = ("application/yaml", "application/x-yaml")


def query(request: web.Request) -> dict[str, str]:
    return dict(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))


def verb(method: str, target: Target, query: Mapping[str, str]) -> str:
    verbs = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    if target.name:
        if query.get("watch") in ("1", "true"):
            raise failure.not_implemented("watches of one object by its path")
        if method not in verbs or (target.sub and method == "DELETE"):
            raise failure.method_not_allowed(method)
        return verbs[method]
    if method == "GET":
        return "watch" if query.get("watch") in ("1", "true") else "list"
    if method == "POST" and (target.namespace or not target.kind.namespaced):
        return "create"
    if method == "DELETE" and (target.namespace or not target.kind.namespaced):
        return "deletecollection"
    raise failure.method_not_allowed(method)


def check_accept(accept: str) -> None:
    taken = [entry.strip() for entry in accept.split(",") if entry.strip()]
    if not taken or any(
        entry.partition(";")[0] in ("*/*", "application/json", "application/*")
        and "as=" not in entry
        for entry in taken
    ):
        return
    if any("as=" in entry for entry in taken):
        raise failure.not_implemented("answers as tables or partial metadata")
    text = "only the following media types are accepted: application/json"
    raise Failure(406, "NotAcceptable", text)


def options(request: web.Request, query: Mapping[str, str]) -> Options:
    if query.get("dryRun", "") not in ("", "All"):
        raise Failure(422, "Invalid", f"dryRun: Unsupported value: {query['dryRun']!r}")
    strictness = query.get("fieldValidation", "") or "Warn"
    if strictness not in ("Ignore", "Warn", "Strict"):
        raise Failure(422, "Invalid", f"fieldValidation: Unsupported value: {strictness!r}")
    agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
    return Options(
        query.get("fieldManager") or agent,
        strictness,
        query.get("dryRun") == "All",
        query.get("force") in ("1", "true"),
    )


async def body(request: web.Request) -> Object:
    media = request.content_type
    if media not in ("application/json", "application/octet-stream", *_YAML):
        raise failure.unsupported_media(media, ["application/json", "application/yaml"])
    found = parsed(await request.read(), as_yaml=media in _YAML)
    if not isinstance(found, dict):
        raise failure.bad_request("the body is no object")
    return found


def parsed(text: bytes, *, as_yaml: bool) -> Any:
    try:
        return yaml.safe_load(text) if as_yaml else json.loads(text)
    except (ValueError, yaml.YAMLError) as problem:
        raise failure.bad_request(f"the body cannot be read: {problem}") from None
