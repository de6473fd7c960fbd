"""Faults by switch: what a test asks the stand-in to do wrong, to which requests, how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """What goes wrong. Each says what `argument` means to it."""

    STATUS = "status"
    """Answer with an error: `argument` is the HTTP status; `retry_after` [s] comes with it."""
    DROP_BEFORE = "drop-before"
    """Close the connection without doing anything."""
    DROP_AFTER = "drop-after"
    """Do what is asked, and close the connection without an answer."""
    DELAY = "delay"
    """Wait `argument` seconds first."""
    GONE = "gone"
    """A list or watch answers 410 as its HTTP status."""
    GONE_EVENT = "gone-event"
    """A watch ends with an ERROR event of 410, after `argument` events."""
    ERROR_EVENT = "error-event"
    """A watch ends at once with an ERROR event of the status `argument`; `retry_after` as above."""
    CUT = "cut"
    """A watch is cut in the middle of a line, after `argument` events."""
    END = "end"
    """A watch ends in order, after `argument` events."""
    STALE = "stale"
    """A list is of `argument` revisions ago, as of an API server that lags."""
    DUPLICATE = "duplicate"
    """Each event of a watch comes twice."""
    BOOKMARK = "bookmark"
    """A bookmark after each `argument` events of a watch, if bookmarks are asked for."""
    EXPIRED_TOKEN = "expired-token"
    """A continue token is too old."""


@dataclass(slots=True)
class Rule:
    """One switch that is thrown."""

    fault: Fault
    argument: float = 0
    verbs: frozenset[str] = frozenset()
    """Verbs that it is about (get, list, watch, create, update, patch, delete); none: all."""
    plural: str = ""
    """The resource that it is about; none: all."""
    times: int | None = None
    """How often it happens; None: always."""
    chance: float = 1.0
    """How likely it is each time."""
    retry_after: int | None = None


@dataclass(slots=True)
class Faults:
    """The switches, in the order in which they were thrown."""

    random: random.Random = field(default_factory=random.Random)
    rules: list[Rule] = field(default_factory=list)

    def add(self, fault: Fault, argument: float = 0, **how: object) -> Rule:
        """Throw a switch; `how` are the other fields of Rule."""
        rule = Rule(fault, argument, **how)  # type: ignore[arg-type]
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Put all switches back."""
        self.rules.clear()

    def strike(self, fault: Fault, verb: str, plural: str) -> Rule | None:
        """The rule by which this fault happens now, once used up by it."""
        for rule in self.rules:
            if rule.fault is not fault or rule.times == 0:
                continue
            if (rule.verbs and verb not in rule.verbs) or rule.plural not in ("", plural):
                continue
            if rule.chance < 1 and self.random.random() >= rule.chance:
                continue
            if rule.times is not None:
                rule.times -= 1
            return rule
        return None
