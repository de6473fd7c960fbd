"""Policies of administrators from JSON to facts, as the controller reads them."""

from __future__ import annotations

from typing import Any

import msgspec

from controller.kube.structs import Custom, Meta
from controller.network.adminpolicies import FORMS


def facts_of_admins(objects: list[Any]) -> dict[Any, dict[Any, Any]]:
    """As the controller reads them."""
    found: dict[Any, dict[Any, Any]] = {}
    for resource, kind, form in FORMS:
        found[kind] = {
            one["metadata"]["name"]: form.decode(
                Custom(Meta(name=one["metadata"]["name"]), msgspec.Raw(msgspec.json.encode(
                    one["spec"])))
            )
            for one in objects
            if one["kind"] == resource.kind
        }  # fmt: skip
    return found
