"""The definitions of custom kinds in deploy/, and what a server that has them does not take."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.apistandin import rules, structural

CRDS = Path(__file__).parents[2] / "deploy" / "kubernetes" / "crds"


@cache
def definitions() -> dict[str, dict[str, Any]]:
    """All of them, by name (`subnets.kubeovn.io`)."""
    found = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in CRDS.rglob("*.yaml"))
    return {body["metadata"]["name"]: body for body in found}


def schema_of(name: str) -> dict[str, Any]:
    """The schema of a definition; of several versions the first's."""
    version = definitions()[name]["spec"]["versions"][0]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def refusals(document: dict[str, Any]) -> list[str]:
    """Why `kubectl apply` (strict validation) would not take an object; kinds of others: never."""
    group, _, _ = document["apiVersion"].rpartition("/")
    for name, body in definitions().items():
        if (body["spec"]["group"], body["spec"]["names"]["kind"]) == (group, document["kind"]):
            obj, schema = copy.deepcopy(document), schema_of(name)
            found = [f"unknown field {path}" for path in structural.prune(obj, schema, root=True)]
            structural.default(obj, schema)
            wrong = [*structural.validate({**obj, "metadata": {}}, schema)]
            return found + [str(one) for one in (*wrong, *rules.broken(obj, schema))]
    return []
