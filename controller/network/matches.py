"""Whether OVN can parse a match that a user wrote. Pure.

Nobody else says so: the northbound database takes any text, ovn-northd hands it on, and each
ovn-controller leaves out what it cannot parse, with a line in its log. What is refused here it
refuses; what this does not know (which sets and groups there are, what a comparison needs besides)
passes. Fields are those of ovn-sb(5), "Expressions", of 23.03 and of later ones.

One kind of match is refused that OVN does parse: that a field differs from each of several values
is multiplied out, to one flow for each choice of a bit of every value, and ovn-controller stops
answering over millions of them.

    or   = and {"||" and}        and = not {"&&" not}; both in one need parentheses
    not  = ["!"] primary         of a comparison only in parentheses
    primary = "(" or ")" | field | field relop constants | constants relop field [relop constants]
            | "0" | "1" | is_chassis_resident("port")
    constants = constant | "{" constant {"," constant} "}"
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from controller.network.matchfields import (
    COSTLY,
    POSITIVE,
    PREDICATES,
    TEXT,
    UNKNOWN,
    UNORDERED,
    width_of,
)
from controller.network.matchwords import (
    Constants,
    Fault,
    Token,
    constant,
    decimal,
    refuse,
    tokens_of,
)

_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_EXACT = frozenset({"==", "!="})

_ETHERNET_TYPES = {"ip4": 0x800, "ip6": 0x86DD, "arp": 0x806}
_IP_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

_MOST_FLOWS = 1 << 18
"""Of what is multiplied out; an ovn-controller of 23.03 took 5 s for 1 << 20."""


@lru_cache(maxsize=1024)
def fault(match: str) -> str:
    """Why OVN cannot parse a match; "": nothing is known against it."""
    try:
        reader = _Reader(list(tokens_of(match)))
        reader.alternatives()
        reader.end()
    except Fault as problem:
        return str(problem)
    except RecursionError:
        return "it has too many parentheses"
    return ""


def broader(match: str) -> str:
    """A match that is refused for its flows alone, with what each such comparison presupposes.

    In place of `ip4.src != $friends` it has `(eth.type == 0x800)`: whatever OVN would find by the
    first it finds by the second, and more. Who drops it drops all that he was asked to.

    Returns:
        "": it is refused for something else, or for nothing.
    """
    try:
        reader = _Reader(list(tokens_of(match)), sparing=True)
        reader.alternatives()
        reader.end()
    except (Fault, RecursionError):
        return ""
    texts = [token.text for token in reader.tokens]
    for first, after, instead in reversed(reader.spared):
        texts[first:after] = [instead]
    return " ".join(texts) if reader.spared else ""


def _presupposed(name: str, *, negated: bool) -> str:
    """What holds wherever a comparison with a field does; negated: what fails there."""
    protocol = "" if name in PREDICATES else name.partition(".")[0]
    relation = "!=" if negated else "=="
    if protocol in _ETHERNET_TYPES:
        return f"(eth.type {relation} {_ETHERNET_TYPES[protocol]:#x})"
    if protocol in _IP_PROTOCOLS:
        return f"(ip.proto {relation} {_IP_PROTOCOLS[protocol]})"
    return "(0)" if negated else "(1)"


@dataclass(slots=True)
class _Reader:
    """What has read a match up to a token.

    Attributes:
        sparing: what is too many flows is noted, and not refused.
        dear: the field of such a comparison, the one that is being read.
        spared: first token of each, the one behind it, and what can be in its place.
    """

    tokens: list[Token]
    at: int = field(default=0)
    negated: bool = False
    sparing: bool = False
    dear: str = ""
    spared: list[tuple[int, int, str]] = field(default_factory=list)
    unlike: dict[str, int] = field(default_factory=dict)
    """What a field that differs from several values comes to, along the && around here [flows]."""

    def end(self) -> None:
        """Nothing is left."""
        if self.at < len(self.tokens):
            refuse(f"{self._here()} is too much")

    def alternatives(self) -> None:
        """An expression; both operators in one only with parentheses."""
        before = dict(self.unlike)
        self._operand()
        seen, most = "", Counter(self.unlike)
        while (mark := self._here()) in ("&&", "||"):
            if seen and mark != seen:
                refuse("&& and || side by side; put parentheses around one of them")
            seen = mark
            self.at += 1
            if (mark == "||") != self.negated:
                self.unlike = dict(before)
            self._operand()
            most |= Counter(self.unlike)
        self.unlike = dict(most)

    def _operand(self) -> None:
        if not self._take("!"):
            self._primary()
            return
        self.negated = not self.negated
        if not self._primary():
            refuse("! before a comparison; put parentheses around that")
        self.negated = not self.negated

    def _primary(self) -> bool:
        """One operand. Returns: whether it stands by itself, so that ! may be before it."""
        if self._take("("):
            self.alternatives()
            self._need(")")
            return True
        first = self.at
        alone = self._comparison()
        if self.dear:
            instead = _presupposed(self.dear, negated=self.negated)
            self.spared.append((first, self.at, instead))
            self.dear = ""
        return alone

    def _comparison(self) -> bool:
        token = self._token()
        if token.kind == "name":
            if token.text == "is_chassis_resident":
                self.at += 1
                self._need("(")
                if self._token().kind not in ("text", "template"):
                    refuse("is_chassis_resident asks for a port's name in quotes")
                self.at += 1
                self._need(")")
                return True
            return self._field_first()
        following = self.tokens[self.at + 1].text if self.at + 1 < len(self.tokens) else ""
        if token.kind == "number" and following not in _RELATIONS:
            if token.text not in ("0", "1"):
                refuse(f"{token.text} is compared with nothing")
            self.at += 1
            return True
        self._constants_first()
        return False

    def _field_first(self) -> bool:
        name, width = self._field()
        if (relation := self._here()) not in _RELATIONS:
            if width == TEXT or (1 < width < UNKNOWN and not self.negated):
                refuse(f"{name} is compared with nothing")
            if self.negated:
                self._refuse_negated(name)
            return True
        self.at += 1
        self._compare(name, width, relation, self._constants())
        return False

    def _compare(self, name: str, width: int, relation: str, constants: Constants) -> None:
        if not constants.sets and (width == TEXT) != constants.texts:
            wanted = "a name in quotes" if width == TEXT else "a number or an address"
            refuse(f"{name} is compared with {wanted}")
        if constants.bits > width > 0:
            refuse(f"{name} has {width} bits, what it is compared with {constants.bits}")
        inexact = constants.many or constants.masked or width == TEXT
        if relation not in _EXACT and (inexact or name in UNORDERED | PREDICATES):
            refuse(f"{relation} is for single numbers that have an order; write == or !=")
        single = not (constants.many or constants.masked or constants.sets)
        if single and ((relation == "==") == constants.zero) != self.negated:
            self._refuse_negated(name)
        if relation in _EXACT and (relation == "!=") != self.negated and 0 < width < UNKNOWN:
            flows = math.prod(mask or width for mask in constants.masks) * self.unlike.get(name, 1)
            instead = "write == in a rule of higher priority"
            if constants.unbounded:
                why = f"{name} unlike each address of a set is as many flows as they multiply to"
                self._too_many(name, f"{why}; {instead}")
            elif flows > _MOST_FLOWS:
                why = f"{name} unlike each of such values is {flows:,} flows"
                self._too_many(name, f"{why}; {instead}")
            else:
                self.unlike[name] = flows

    def _constants_first(self) -> None:
        constants = self._constants()
        relation = self._relation()
        name, width = self._field()
        self._compare(name, width, relation, constants)
        if self._here() in _RELATIONS:
            second = self._relation()
            if (relation[0] != second[0]) or relation[0] not in "<>":
                refuse(f"{relation} and {second} make no range; write 1 < {name} < 9")
            self._compare(name, width, second, self._constants())

    def _relation(self) -> str:
        found = self._here()
        if found not in _RELATIONS:
            refuse(f"{found or 'its end'} is where ==, != or the like belongs")
        self.at += 1
        return found

    def _field(self) -> tuple[str, int]:
        token = self._token()
        if token.kind != "name":
            refuse(f"{token.text} is where a field belongs")
        self.at += 1
        if (width := width_of(token.text)) is None:
            refuse(f"{token.text} is no field of OVN's")
        if self._take("["):
            if width == TEXT or token.text in UNORDERED:
                refuse(f"{token.text} has no bits to choose from")
            first = last = self._number()
            if self._take(".."):
                last = self._number()
            self._need("]")
            if not first <= last < width:
                refuse(f"{token.text} has no bits {first} to {last}")
            # What a part is compared with may be wider, which OVN cuts.
            width = 1 if first == last else UNKNOWN
        return token.text, width

    def _number(self) -> int:
        token = self._token()
        if token.kind != "number" or not token.text.isdigit():
            refuse(f"{token.text} is where a bit's number belongs")
        self.at += 1
        return decimal(token.text)

    def _constants(self) -> Constants:
        if not self._take("{"):
            return self._constant()
        found = []
        while not self._take("}"):
            found.append(self._constant())
            self._take(",")
        if not found:
            refuse("{} names nothing")
        if len({one.texts for one in found if not one.sets}) > 1:
            refuse("numbers and texts in one set")
        return Constants(
            any(one.texts for one in found),
            max(one.bits for one in found),
            any(one.masked for one in found),
            many=True,
            sets=all(one.sets for one in found),
            unbounded=any(one.unbounded for one in found),
            masks=tuple(bits for one in found if not one.sets for bits in one.masks),
        )

    def _constant(self) -> Constants:
        token = self._token()
        self.at += 1
        if token.kind == "text":
            return Constants(texts=True)
        if token.kind in ("set", "template"):
            return Constants(sets=True, unbounded=token.text[0] == "$", masks=())
        if token.kind != "number":
            refuse(f"{token.text} is where a constant belongs")
        return constant(token.text)

    def _token(self) -> Token:
        if self.at >= len(self.tokens):
            refuse("it ends too early")
        return self.tokens[self.at]

    def _here(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def _take(self, text: str) -> bool:
        found = self._here() == text
        self.at += found
        return found

    def _need(self, text: str) -> None:
        if not self._take(text):
            refuse(f"{self._here() or 'its end'} is where {text} belongs")

    def _refuse_negated(self, name: str) -> None:
        if name in POSITIVE:
            refuse(f"{name} cannot be negated; compare what it stands for")
        if name in COSTLY:
            why = f"{name} negated is more flows than an ovn-controller can hold"
            self._too_many(name, why)

    def _too_many(self, name: str, why: str) -> None:
        if not self.sparing:
            refuse(why)
        self.dear = name
