"""What every lab is: something that is built, and removed whatever happened."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Built:
    """A context manager over `build` and `remove`; what fails to be built is removed."""

    __slots__ = ()

    def build(self) -> None:
        """Everything, from whatever a crashed run left."""
        raise NotImplementedError

    def remove(self) -> None:
        """Everything of this lab, in whatever state it is."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.remove()
