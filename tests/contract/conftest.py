"""The server that the contract is held against: the stand-in, or MILLRACE_API_URL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.apistandin.probe import Api
from tests.apistandin.thread import running


@pytest.fixture(scope="session")
def api() -> Iterator[Api]:
    if real := Api.from_environment():
        yield real
        return
    with running() as standin:
        yield Api(standin.url)


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace of the suite's own, and the definition of a kind in it."""

    namespace: str
    group: str

    @property
    def configs(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    @property
    def widgets(self) -> str:
        return f"/apis/{self.group}/v1/namespaces/{self.namespace}/widgets"

    def config(self, name: str, **more: object) -> dict[str, object]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **more}

    def widget(self, name: str, **more: object) -> dict[str, object]:
        version = f"{self.group}/v1"
        return {"apiVersion": version, "kind": "Widget", "metadata": {"name": name}, **more}


@pytest.fixture(scope="session")
def place(api: Api) -> Iterator[Place]:
    suffix = secrets.token_hex(3)
    at = Place(f"contract-{suffix}", f"{suffix}.contract.millrace.example")
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": at.namespace}}
    assert api.post("/api/v1/namespaces", space).code == 201
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    reply = api.post(crds, definition(at.group))
    assert reply.code == 201, reply
    api.until(at.widgets, lambda reply: reply.code == 200)
    yield at
    api.delete(f"{crds}/widgets.{at.group}")
    api.delete(f"/api/v1/namespaces/{at.namespace}")


def definition(group: str) -> dict[str, object]:
    """A kind with a default, bounds, a keyed list, a rule and a status."""
    text = {"type": "string"}
    spec = {
        "type": "object",
        "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 9},
            "colour": {"type": "string", "default": "grey", "enum": ["grey", "red"]},
            "fixed": text,
            "ports": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": text, "number": {"type": "integer"}},
                },
            },
            "range": {
                "type": "object",
                "properties": {"low": {"type": "integer"}, "high": {"type": "integer"}},
                "x-kubernetes-validations": [
                    {
                        "rule": "!has(self.low) || !has(self.high) || self.low <= self.high",
                        "message": "low is above high",
                    }
                ],
            },
        },
        "x-kubernetes-validations": [
            {
                "rule": "!has(oldSelf.fixed) || (has(self.fixed) && self.fixed == oldSelf.fixed)",
                "message": "fixed may not change",
            }
        ],
    }
    status = {"type": "object", "properties": {"phase": text, "seen": {"type": "integer"}}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {
            "openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}
        },
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wdg"]},
            "versions": [version],
        },
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every case names its text: what nobody promises is not part of the contract."""
    for item in items:
        if "tests/contract/" in str(item.path) and not hasattr(
            getattr(item, "function", None), "cites"
        ):
            raise pytest.UsageError(f"{item.nodeid}: cites no text of the Kubernetes API")
