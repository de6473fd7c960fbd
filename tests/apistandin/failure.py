"""What the API answers when it refuses: the Status object and its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as JSON has it."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One field that is wrong, and why; `reason` is one of the API's cause types."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


@dataclass(slots=True)
class Failure(Exception):
    """An answer that is no success, as metav1.Status."""

    code: int
    reason: str
    message: str
    details: Object = field(default_factory=dict)
    metadata: Object = field(default_factory=dict)
    retry_after: int | None = None

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}"

    def status(self) -> Object:
        """The Status object."""
        answer: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        details = dict(self.details)
        if self.retry_after is not None:
            details["retryAfterSeconds"] = self.retry_after
        if details:
            answer["details"] = details
        return answer


def bad_request(message: str) -> Failure:
    return Failure(400, "BadRequest", message)


def not_implemented(what: str) -> Failure:
    return Failure(501, "NotImplemented", f"the stand-in does not implement {what}")


def method_not_allowed(verb: str) -> Failure:
    return Failure(405, "MethodNotAllowed", f"the server does not allow this method: {verb}")


def unsupported_media(given: str, taken: Sequence[str]) -> Failure:
    text = (
        f"the body of the request was in an unknown format ({given or 'none'}) - accepted media "
        f"types include: {', '.join(taken)}"
    )
    return Failure(415, "UnsupportedMediaType", text)


def no_such_page() -> Failure:
    return Failure(404, "NotFound", "the server could not find the requested resource")


def _qualified(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> Failure:
    return Failure(
        404,
        "NotFound",
        f'{_qualified(group, plural)} "{name}" not found',
        {"name": name, "group": group, "kind": plural},
    )


def already_exists(group: str, plural: str, name: str) -> Failure:
    return Failure(
        409,
        "AlreadyExists",
        f'{_qualified(group, plural)} "{name}" already exists',
        {"name": name, "group": group, "kind": plural},
    )


def conflict(group: str, plural: str, name: str, why: str, causes: Sequence[Cause] = ()) -> Failure:
    details: Object = {"name": name, "group": group, "kind": plural}
    if causes:
        details["causes"] = _causes(causes)
        return Failure(409, "Conflict", why, details)
    text = f'Operation cannot be fulfilled on {_qualified(group, plural)} "{name}": {why}'
    return Failure(409, "Conflict", text, details)


def stale(group: str, plural: str, name: str) -> Failure:
    why = (
        "the object has been modified; please apply your changes to the latest version and try "
        "again"
    )
    return conflict(group, plural, name, why)


def forbidden(group: str, plural: str, name: str, why: str) -> Failure:
    return Failure(
        403,
        "Forbidden",
        f'{_qualified(group, plural)} "{name}" is forbidden: {why}',
        {"name": name, "group": group, "kind": plural},
    )


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> Failure:
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    return Failure(
        422,
        "Invalid",
        f'{_qualified(group, kind)} "{name}" is invalid: {listed}',
        {"name": name, "group": group, "kind": kind, "causes": _causes(causes)},
    )


def gone(message: str, token: str | None = None) -> Failure:
    return Failure(410, "Expired", message, metadata={"continue": token} if token else {})


def _causes(causes: Sequence[Cause]) -> list[Object]:
    return [
        {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
    ]
