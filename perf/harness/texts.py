"""Long texts of results, as a data plane's flows: each once, compressed, under its digest. Pure.

Scenarios of one lab have the same flows, and 10,000 services have megabytes of them that shrink to
a fifteenth.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

from perf.harness.generator import HarnessError

LEAST = 4096
"""Octets of a text that is kept apart; shorter ones stay where they are, for who reads the file."""

KEY = "text"
"""What stands in for such lines: {"text": digest, "lines": how many}."""


def pack(value: Any) -> tuple[Any, dict[str, str]]:
    """The same with long lists of lines kept apart, and those by digest."""
    apart: dict[str, str] = {}
    return _packed(value, apart), apart


def _packed(value: Any, apart: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _packed(each, apart) for key, each in value.items()}
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        return value
    text = "\n".join(value).encode()
    if len(text) < LEAST or text.count(b"\n") != len(value) - 1:
        return value
    digest = hashlib.sha256(text).hexdigest()
    apart[digest] = base64.b64encode(zlib.compress(text, 9)).decode()
    return {KEY: digest, "lines": len(value)}


def unpack(value: Any, apart: Mapping[str, str]) -> Any:
    """As it was before `pack`.

    Raises:
        HarnessError: a text is not there, or is not what its digest says.
    """
    if not isinstance(value, Mapping):
        return value
    if set(value) != {KEY, "lines"}:
        return {key: unpack(each, apart) for key, each in value.items()}
    digest = value[KEY]
    if digest not in apart:
        msg = f"the text {digest} is missing: the file is not whole"
        raise HarnessError(msg)
    try:
        text = zlib.decompress(base64.b64decode(apart[digest], validate=True))
    except (binascii.Error, zlib.error) as error:
        msg = f"the text {digest} cannot be read: {error}"
        raise HarnessError(msg) from error
    if hashlib.sha256(text).hexdigest() != digest:
        msg = f"the text {digest} is another than was stored"
        raise HarnessError(msg)
    return text.decode().split("\n")


__all__ = ["KEY", "LEAST", "pack", "unpack"]
