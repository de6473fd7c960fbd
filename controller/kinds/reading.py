"""JSON objects read field by field: every error names the field, and what nobody read is told.

A value of the wrong type makes the object unreadable (KindError): nothing can be guessed from it.
A field that no reader asks for is only told (`unread`), since a newer manifest may have it. A null
counts as absent, as in the API.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from controller.kinds.errors import KindError
from controller.kube.structs import Custom, LabelSelector, Meta
from controller.policy.model import Expression, Operator, Selector
from controller.translate.ovn import Problem
from dataplane.model.addr import IPAddress, IPNetwork

T = TypeVar("T")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_LISTED = ", ".join(_OPERATORS)
_WORDS = {str: "a text", bool: "true or false", int: "a whole number", list: "a list"}


@dataclass(slots=True)
class Reading:
    """One JSON object, its place, and which fields were asked for."""

    fields: Mapping[str, Any]
    path: str
    _read: set[str] = field(default_factory=set)
    _below: list[Reading] = field(default_factory=list)

    def fail(self, name: str, cause: str, next_step: str) -> NoReturn:
        """Say that a field cannot be what it is.

        Raises:
            KindError: always.
        """
        raise KindError(self.at(name), cause, next_step)

    def at(self, name: str) -> str:
        """The full path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def text(self, name: str, default: str = "") -> str:
        """A text, without the spaces around it."""
        value = self._typed(name, str)
        return default if value is None else value.strip()

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._typed(name, bool)
        return default if value is None else bool(value)

    def number(self, name: str, default: int = 0) -> int:
        """A whole number."""
        value = self._typed(name, int)
        return default if value is None else int(value)

    def choice(self, name: str, allowed: tuple[str, ...], default: str = "") -> str:
        """One of several words; left out or empty: `default`."""
        value = self.text(name)
        if value and value not in allowed:
            self.fail(name, f"{value!r} is none of {', '.join(allowed)}", "write one of these")
        return value or default

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        found: list[str] = []
        for at, value in enumerate(self._typed(name, list) or ()):
            if not isinstance(value, str):
                self.fail(f"{name}[{at}]", f"{value!r} is not a text", "put it in quotes")
            found.append(value.strip())
        return tuple(found)

    def address(self, name: str) -> IPAddress | None:
        """An address; None if it is left out or empty."""
        text = self.text(name)
        if not text:
            return None
        try:
            return ipaddress.ip_address(text)
        except ValueError:
            self.fail(name, f"{text!r} is no address", "write it as 10.16.0.9 or fd00::9")

    def networks(self, name: str) -> tuple[IPNetwork, ...]:
        """Networks in one text, with commas between them; host bits are cut off."""
        found: list[IPNetwork] = []
        for word in filter(None, (part.strip() for part in self.text(name).split(","))):
            try:
                found.append(ipaddress.ip_network(word, strict=False))
            except ValueError:
                self.fail(name, f"{word!r} is no network", "write it as 10.16.0.0/16")
        return tuple(found)

    def below(self, name: str) -> Reading:
        """The object in a field; an empty one if it is left out."""
        self._read.add(name)
        value = self.fields.get(name)
        if value is not None and not isinstance(value, dict):
            self.fail(name, f"{value!r} is not an object", "write fields below it")
        return self._child(value or {}, name)

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self.fields.get(name) is not None

    def each(self, name: str) -> tuple[Reading, ...]:
        """The objects of a list; nulls in it are left out."""
        found: list[Reading] = []
        for at, value in enumerate(self._typed(name, list) or ()):
            if value is None:
                continue
            if not isinstance(value, dict):
                self.fail(f"{name}[{at}]", f"{value!r} is not an object", "write fields below it")
            found.append(self._child(value, f"{name}[{at}]"))
        return tuple(found)

    def words(self, name: str) -> dict[str, str]:
        """An object whose values are all texts, labels for instance."""
        there = self.below(name)
        return {key: there.text(key) for key in there.fields}

    def selector(self, name: str) -> LabelSelector | None:
        """A label selector; None if it is left out."""
        self._read.add(name)
        return self._selector(self.fields[name], name) if self.has(name) else None

    def matcher(self, name: str) -> Selector | None:
        """The same, for asking whether it matches."""
        found = self.selector(name)
        return matcher_of(found) if found is not None else None

    def matchers(self, name: str) -> tuple[Selector, ...]:
        """A list of them."""
        values = self._typed(name, list) or ()
        found = (self._selector(value, f"{name}[{at}]") for at, value in enumerate(values))
        return tuple(matcher_of(one) for one in found)

    def _selector(self, value: object, name: str) -> LabelSelector:
        try:
            found = msgspec.convert(value, LabelSelector)
        except msgspec.ValidationError as error:
            self.fail(name, str(error), "write matchLabels or matchExpressions below it")
        for at, one in enumerate(found.match_expressions):
            where = f"{name}.matchExpressions[{at}]"
            if one.operator not in _OPERATORS:
                self.fail(where, f"there is no operator {one.operator!r}", f"write {_LISTED}")
            if one.operator in ("In", "NotIn") and not one.values:
                self.fail(where, f"{one.operator} has no values", "name one at least")
            if one.operator in ("Exists", "DoesNotExist") and one.values:
                self.fail(where, f"{one.operator} takes no values", "take them away")
        return found

    def ignore(self, *names: str) -> None:
        """Fields that are known and have no effect here for a reason that the docs give."""
        self._read.update(names)

    def unread(self) -> tuple[str, ...]:
        """Paths of the fields that are there and that nobody asked for."""
        own = tuple(self.at(name) for name in self.fields if name not in self._read)
        return own + tuple(path for below in self._below for path in below.unread())

    def _child(self, value: Mapping[str, Any], name: str) -> Reading:
        child = Reading(value, self.at(name))
        self._below.append(child)
        return child

    def _typed(self, name: str, kind: type) -> Any:
        self._read.add(name)
        value = self.fields.get(name)
        # In Python a bool is an int; in JSON it is none.
        if value is not None and (
            not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        ):
            self.fail(name, f"{value!r} is not {_WORDS[kind]}", f"write {_WORDS[kind]}")
        return value


def matcher_of(found: LabelSelector) -> Selector:
    """A label selector as policies have it; equal ones come out equal."""
    equal = {Expression(key, Operator.IN, (value,)) for key, value in found.match_labels.items()}
    listed = {
        Expression(one.key, Operator(one.operator), tuple(sorted({*one.values})))
        for one in found.match_expressions
    }
    return Selector(tuple(sorted(equal | listed)))


Read = Callable[[Meta, Reading, Reading], T]
"""From metadata, specification and status to a fact."""


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How objects of one custom kind are read: what `Watched` wants of a kind.

    Attributes:
        kind: as in `Subnet`.
        read: asks for every field of the specification that is known; raises KindError.
        whole: it does so; otherwise nothing is told of fields that it does not ask for.
    """

    kind: str
    read: Read[T]
    whole: bool = True

    def decode(self, obj: Custom) -> T:
        """The fact.

        Raises:
            KindError: the object cannot be understood.
        """
        return self.read(obj.metadata, *_parts(obj))

    def warn(self, obj: Custom) -> tuple[Problem, ...]:
        """Fields of the specification that are unknown here."""
        if not self.whole:
            return ()
        try:
            spec, status = _parts(obj)
            self.read(obj.metadata, spec, status)
        except KindError:  # which says more than this would
            return ()
        who = f"{self.kind} {obj.metadata.name}"
        return tuple(
            Problem(
                who, f"{path} is no field that is known here", "correct its name, or take it away"
            )
            for path in spec.unread()
        )


def _parts(obj: Custom) -> tuple[Reading, Reading]:
    found = []
    for name, raw in (("spec", obj.spec), ("status", obj.status)):
        value = msgspec.json.decode(raw)
        if value is not None and not isinstance(value, dict):
            raise KindError(name, f"{value!r} is not an object", "write fields below it")
        found.append(Reading(value or {}, name))
    return found[0], found[1]
