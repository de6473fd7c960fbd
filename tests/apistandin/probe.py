"""A plain client for the contract suite: requests as they are, answers as they come."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

JSON = "application/json"

F = TypeVar("F", bound=Callable[..., object])

CONCEPTS = "https://kubernetes.io/docs/reference/using-api/api-concepts/"
CONVENTIONS = (
    "https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/"
    "api-conventions.md"
)
APPLY = "https://kubernetes.io/docs/reference/using-api/server-side-apply/"
CRDS = (
    "https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/"
    "custom-resource-definitions/"
)
NAMES = "https://kubernetes.io/docs/concepts/overview/working-with-objects/names/"
LABELS = "https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/"
FIELDS = "https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/"
FINALIZERS = "https://kubernetes.io/docs/concepts/overview/working-with-objects/finalizers/"
LEASES = "https://kubernetes.io/docs/concepts/architecture/leases/"
POLICIES = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
PATCHES = (
    "https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/"
)


def cites(page: str, section: str) -> Callable[[F], F]:
    """Name the text that a case comes from: a page, and the anchor of a section in it."""

    def mark(case: F) -> F:
        case.__dict__["cites"] = f"{page}#{section}"
        return case

    return mark


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, headers, and the JSON of the body."""

    code: int
    headers: Mapping[str, str]
    body: Any

    @property
    def version(self) -> str:
        return str(self.body["metadata"]["resourceVersion"])


@dataclass(frozen=True, slots=True)
class Api:
    """The server under test."""

    url: str
    token: str = ""
    ca: str = ""

    @classmethod
    def from_environment(cls) -> Api | None:
        """A real server, if MILLRACE_API_URL names one (MILLRACE_API_TOKEN, MILLRACE_API_CA)."""
        url = os.environ.get("MILLRACE_API_URL", "")
        if not url:
            return None
        token, ca = os.environ.get("MILLRACE_API_TOKEN", ""), os.environ.get("MILLRACE_API_CA", "")
        return cls(url.rstrip("/"), token, ca)

    def ask(
        self, method: str, path: str, body: object, media: str, query: Mapping[str, object]
    ) -> Reply:
        """One request. An error is an answer as well."""
        given = {key.rstrip("_"): str(value) for key, value in query.items()}
        url = f"{self.url}{path}" + (f"?{urlencode(given)}" if given else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)
        request.add_header("Accept", "application/json")
        request.add_header("User-Agent", "millrace-contract/1")
        if data is not None:
            request.add_header("Content-Type", media)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        context = ssl.create_default_context(cafile=self.ca or None) if url[4] == "s" else None
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as response:
                text, code, headers = response.read(), response.status, response.headers
        except urllib.error.HTTPError as error:
            with error:
                text, code, headers = error.read(), error.code, error.headers
        found = dict(headers.items())
        if query.get("watch"):
            return Reply(code, found, _events(text) if code == 200 else json.loads(text))
        return Reply(code, found, json.loads(text) if text[:1] in (b"{", b"[") else text.decode())

    def get(self, path: str, **query: object) -> Reply:
        return self.ask("GET", path, None, JSON, query)

    def post(self, path: str, body: object, **query: object) -> Reply:
        return self.ask("POST", path, body, JSON, query)

    def put(self, path: str, body: object, **query: object) -> Reply:
        return self.ask("PUT", path, body, JSON, query)

    def delete(self, path: str, body: object = None, **query: object) -> Reply:
        return self.ask("DELETE", path, body, JSON, query)

    def merge(self, path: str, body: object, **query: object) -> Reply:
        return self.ask("PATCH", path, body, "application/merge-patch+json", query)

    def json_patch(self, path: str, body: object, **query: object) -> Reply:
        return self.ask("PATCH", path, body, "application/json-patch+json", query)

    def strategic(self, path: str, body: object, **query: object) -> Reply:
        media = "application/strategic-merge-patch+json"
        return self.ask("PATCH", path, body, media, query)

    def apply(self, path: str, body: object, manager: str, **query: object) -> Reply:
        media = "application/apply-patch+yaml"
        return self.ask("PATCH", path, body, media, {"fieldManager": manager, **query})

    def watch(self, path: str, since: str, **query: object) -> list[tuple[str, Any]]:
        """What a watch of one second tells, without bookmarks."""
        reply = self.get(path, watch="true", resourceVersion=since, timeoutSeconds=1, **query)
        assert reply.code == 200, reply
        return [(one["type"], one["object"]) for one in reply.body if one["type"] != "BOOKMARK"]

    def until(self, path: str, holds: Callable[[Reply], bool], timeout_s: float = 60) -> Reply:
        """Get until something holds."""
        end = time.monotonic() + timeout_s
        while not holds(reply := self.get(path)):
            assert time.monotonic() < end, f"{path}: {reply}"
            time.sleep(0.1)
        return reply


def _events(text: bytes) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line]
