"""JSON by the interpreter's C parts alone: the package `json` loads `re`, a third of a start.

What the C parts refuse is given to `json`, whose words for it are the better ones; so both read and
write the same. Where the interpreter has them not, `json` does all of it.
"""

from __future__ import annotations

try:
    import _json
except ImportError:  # another interpreter than CPython
    _json = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SPACE = " \t\n\r"


def loads(text: str, parse_constant: Callable[[str], object] | None = None) -> object:
    """As `json.loads`.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is too deep.
    """
    if _json is not None:
        try:
            return _scanned(text, parse_constant or _constant)
        except (
            ValueError, RecursionError, StopIteration, AttributeError, TypeError, SystemError
        ):  # fmt: skip
            # The scanner raises an error of json.decoder's: where that is not loaded, none at all,
            # and the interpreter says SystemError.
            pass
    import json

    return json.loads(text, parse_constant=parse_constant)


def dumps(obj: object, *, allow_nan: bool = True) -> str:
    """As `json.dumps` with no spaces.

    Raises:
        TypeError, ValueError, RecursionError: it is none.
    """
    if _json is not None:
        try:
            encoder = _json.make_encoder(
                {}, _no_default, _json.encode_basestring_ascii, None, ":", ",", False, False,
                allow_nan,
            )  # fmt: skip
            return "".join(encoder(obj, 0))
        except (ValueError, RecursionError, AttributeError, TypeError):
            pass
    import json

    return json.dumps(obj, separators=(",", ":"), allow_nan=allow_nan)


class _Context:
    """What the C scanner asks of a decoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    def __init__(self, parse_constant: Callable[[str], object]) -> None:
        self.parse_constant = parse_constant


def _scanned(text: str, parse_constant: Callable[[str], object]) -> object:
    start = len(text) - len(text.lstrip(_SPACE))
    context: Any = _Context(parse_constant)
    value, end = _json.make_scanner(context)(text, start)
    if text[end:].strip(_SPACE):
        msg = "more than one value"
        raise ValueError(msg)
    return value


def _constant(name: str) -> object:
    return float(name.replace("Infinity", "inf"))


def _no_default(obj: object) -> object:
    msg = f"{type(obj).__name__} is no JSON"
    raise TypeError(msg)
