"""Why an address is not given: each names the subnet, the cause and the next step."""

from __future__ import annotations


class AddressError(Exception):
    """No address was given, and nothing changed. Said as "cause; next step"."""

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(f"{cause}; {next_step}")
        self.cause = cause
        self.next_step = next_step


class NoSubnetError(AddressError):
    """There is no subnet, or no pool, of that name."""


class OutOfRangeError(AddressError):
    """An address that was asked for is none that the subnet gives out."""


class ConflictError(AddressError):
    """An address, or a MAC, that was asked for is somebody else's. `holder` says whose."""

    def __init__(self, cause: str, next_step: str, holder: str) -> None:
        super().__init__(cause, next_step)
        self.holder = holder


class ExhaustedError(AddressError):
    """Every address that might be given is taken."""


class FamilyError(AddressError):
    """A family that the subnet has not."""


class RangeTextError(AddressError):
    """A range, a CIDR or an address that cannot be read."""
