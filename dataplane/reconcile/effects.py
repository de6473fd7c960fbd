"""Calls of drivers, at the boundary: whatever one raises is a failure of the rows it was given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from dataplane.ports import DataplaneError, Failure

log = logging.getLogger(__name__)


def effect(
    name: str,
    verb: str,
    call: Callable[[Sequence[Any]], Mapping[Any, Failure]],
    rows: Sequence[Any],
    keys: Iterable[Hashable],
) -> Mapping[Any, Failure]:
    """Call a driver; if it raises, every row of the call failed for that reason."""
    if not rows:
        return {}
    try:
        return call(rows)
    except DataplaneError as error:
        return dict.fromkeys(keys, Failure(str(error)))
    except Exception as error:
        log.exception("driver_failed", extra={"table": name, "verb": verb})
        return dict.fromkeys(keys, Failure(f"{verb} of {name} failed: {error!r}"))
