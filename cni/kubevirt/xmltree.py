"""XML in and out, for a document that somebody else wrote.

Prefixes are left as they are (`qemu:commandline` stays that, with its declaration): the peers of
a hook read the names literally. A document type is refused, because only one can declare
entities, and an entity can grow without bound or name a file.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET
from xml.parsers import expat

MAX_SIZE = 4 << 20
"""Bytes. A domain has some ten thousand; what is far beyond is no domain."""

MAX_DEPTH = 64


class XmlError(ValueError):
    """The text is not XML that we accept."""


def parse(data: bytes) -> ET.Element:
    """The root element of a document.

    Raises:
        XmlError: not XML, too long, nested too deeply, or with a document type.
    """
    if len(data) > MAX_SIZE:
        msg = f"the XML has {len(data)} bytes, more than {MAX_SIZE}"
        raise XmlError(msg)
    builder = ET.TreeBuilder(insert_comments=True)
    parser = expat.ParserCreate()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            msg = f"the XML is nested more than {MAX_DEPTH} deep"
            raise XmlError(msg)
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.CommentHandler = lambda text: builder.comment(text) if depth else None
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as error:
        if isinstance(error, XmlError):
            raise
        msg = f"the text is not XML: {error}"
        raise XmlError(msg) from error
    return builder.close()


def serialize(root: ET.Element) -> bytes:
    """The document, without a declaration, in UTF-8."""
    return ET.tostring(root, encoding="unicode").encode()


def _refuse(*_what: object) -> None:
    msg = "the XML has a document type (<!DOCTYPE ...>); a domain has none, and it is not read"
    raise XmlError(msg)
