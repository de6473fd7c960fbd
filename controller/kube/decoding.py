"""Lists and watch events as JSON, decoded into changes of a cache.

An object that cannot be decoded harms nobody but itself: it is one entry of `Cache.invalid`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from controller.kube.cache import Removal, Upsert, upsert
from controller.kube.errors import ApiError, ProtocolError
from controller.kube.resources import Key, Resource
from controller.kube.structs import HasMeta, Status

T = TypeVar("T", bound=HasMeta)


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, Generic[T]):
    metadata: _ListMeta
    items: list[T] | None = None


class _RawPage(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Place(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Placed(msgspec.Struct):
    """All that has to be readable of an object, for the rest of it to be its own problem."""

    metadata: _Place


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `token` is empty on the last."""

    entries: list[Upsert[T]]
    revision: int
    token: str


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything up to a revision was told."""

    revision: int


class Decoder(Generic[T]):
    """Decodes what comes of one resource."""

    def __init__(self, resource: Resource[T]) -> None:
        self._resource = resource
        kind: Any = resource.struct
        self._page: msgspec.json.Decoder[_Page[T]] = msgspec.json.Decoder(_Page[kind])
        self._object: msgspec.json.Decoder[T] = msgspec.json.Decoder(resource.struct)
        self._event = msgspec.json.Decoder(_Event)

    def page(self, text: bytes) -> Page[T]:
        """A page of a list.

        Raises:
            ProtocolError: it is none.
        """
        try:
            page = self._page.decode(text)
        except msgspec.ValidationError:
            return self._page_by_item(text)
        except msgspec.MsgspecError as problem:
            raise ProtocolError(f"LIST {self._resource}: no list: {problem}") from problem  # noqa: EM102
        revision = self._revision(page.metadata.resource_version)
        entries = [upsert(item, 0) for item in page.items or ()]
        return Page(entries, revision, page.metadata.continue_)

    def _page_by_item(self, text: bytes) -> Page[T]:
        """The same where one object at least is not what it should be: each by itself."""
        try:
            page = msgspec.json.decode(text, type=_RawPage)
        except msgspec.MsgspecError as problem:
            raise ProtocolError(f"LIST {self._resource}: no list: {problem}") from problem  # noqa: EM102
        entries = [self._upsert(item, 0) for item in page.items or ()]
        revision = self._revision(page.metadata.resource_version)
        return Page(entries, revision, page.metadata.continue_)

    def events(self, lines: Sequence[bytes]) -> Iterator[Upsert[T] | Removal | Bookmark]:
        """The changes that lines of a watch tell.

        Raises:
            ApiError: the watch ends with an error, 410 most often.
            ProtocolError: a line is no event.
        """
        for line in lines:
            try:
                event = self._event.decode(line)
                if event.type in ("ADDED", "MODIFIED"):
                    yield self._upsert(event.object, None)
                elif event.type == "ERROR":
                    status = msgspec.json.decode(event.object, type=Status)
                    raise self._ended(status)
                elif event.type in ("DELETED", "BOOKMARK"):
                    key, revision = self._place(event.object)
                    told = event.type == "DELETED"
                    yield Removal(key, revision) if told else Bookmark(revision)
                else:
                    raise ProtocolError(f"WATCH {self._resource}: an event {event.type!r}")  # noqa: EM102
            except msgspec.MsgspecError as problem:
                raise ProtocolError(f"WATCH {self._resource}: no event: {problem}") from problem  # noqa: EM102

    def _upsert(self, raw: msgspec.Raw, revision: int | None) -> Upsert[T]:
        try:
            obj = self._object.decode(raw)
        except msgspec.ValidationError as problem:
            key, known = self._place(raw)
            text = f"{self._resource} {key} cannot be read: {problem}"
            return Upsert(key, known if revision is None else revision, None, text)
        if revision is None:
            revision = self._revision(obj.metadata.resource_version)
        return upsert(obj, revision)

    def _place(self, raw: msgspec.Raw) -> tuple[Key, int]:
        at = msgspec.json.decode(raw, type=_Placed).metadata
        return Key(at.namespace, at.name), self._revision(at.resource_version)

    def _ended(self, status: Status) -> ApiError:
        where = str(self._resource)
        return ApiError(
            "WATCH", where, status.code, status.reason, status.message, status.retry_after
        )

    def _revision(self, text: str) -> int:
        """A resourceVersion as a number, as which the API lets clients compare them.

        Raises:
            ProtocolError: it is none.
        """
        if not text.isdigit():
            msg = f"{self._resource}: the resourceVersion {text!r} is no number"
            raise ProtocolError(msg)
        return int(text)
