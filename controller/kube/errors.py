"""What can go wrong with the API server. Every text names the request and what was answered."""

from __future__ import annotations


class KubeError(Exception):
    """The API server did not do what was asked."""


class ConfigError(KubeError):
    """It is not known where the API server is, or who we are to it."""


class Unreachable(KubeError):
    """No answer came: a connection failed, broke or timed out."""

    def __init__(self, verb: str, path: str, cause: BaseException) -> None:
        why = str(cause) or type(cause).__name__
        super().__init__(f"{verb} {path}: no answer from the API server: {why}")


class ProtocolError(KubeError):
    """An answer came that cannot be understood."""


class ApiError(KubeError):
    """A Status came.

    Attributes:
        code: the HTTP status.
        reason: the API's word for it (NotFound, Conflict, Expired, ...), empty if it gave none.
        retry_after: when the server wants to be asked again [s], if it said so.
    """

    def __init__(
        self, verb: str, path: str, code: int, reason: str, message: str,
        retry_after: float | None = None,
    ) -> None:  # fmt: skip
        self.code, self.reason, self.retry_after = code, reason, retry_after
        self.api_message = message
        # What no part of a server knows is answered with a line of text: no reason, "404 ...".
        words = [str(code), reason] if reason else [str(code)]
        told = " ".join(message.removeprefix(str(code)).split())
        super().__init__(f"{verb} {path}: {' '.join(words)}: {told}{_next_step(code)}")

    @property
    def is_gone(self) -> bool:
        """Whether the past that was asked for is no longer kept."""
        return self.code == 410

    @property
    def is_conflict(self) -> bool:
        """Whether somebody else was faster."""
        return self.code == 409


def _next_step(code: int) -> str:
    """What the operator can do about it, where there is something."""
    steps = {
        401: "; check the token or client certificate that the controller runs with",
        403: "; grant the verb in the ClusterRole of deploy/",
        404: "; if it is a kind, install its definition from deploy/",
    }
    return steps.get(code, "")
