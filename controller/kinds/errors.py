"""What cannot be read of an object, and what could be read but means nothing."""

from __future__ import annotations


class KindError(Exception):
    """An object that cannot be understood; its status says why.

    What was read of it last stays in force for as long as it is there.

    Attributes:
        path: the field, as in `spec.staticRoutes[2].cidr`.
        cause: what is wrong with it.
        next_step: what to write instead.
    """

    def __init__(self, path: str, cause: str, next_step: str) -> None:
        super().__init__(f"{path}: {cause}; {next_step}")
        self.path = path
        self.cause = cause
        self.next_step = next_step
