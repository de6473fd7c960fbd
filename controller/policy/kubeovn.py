"""Kube-OVN's annotations of a NetworkPolicy. Pure.

Sources: Kube-OVN's documentation of NetworkPolicy ("Logging", "Policy Enforcement Modes") and of
networks beside the first.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.kinds.errors import KindError
from controller.policy.model import Logging

FOR = "ovn.kubernetes.io/network_policy_for"
LOG = "ovn.kubernetes.io/enable_log"
LOG_ACTIONS = "ovn.kubernetes.io/log_acl_actions"
LOG_RATE = "ovn.kubernetes.io/acl_log_meter_rate"
ENFORCEMENT = ("ovn.kubernetes.io/network_policy_enforcement", "ovn.kubernetes.io/enforcement")
"""The second is how Kube-OVN's documentation has it, the first what its code reads."""


def problems(notes: Mapping[str, str]) -> tuple[KindError, ...]:
    """What annotations of a policy say that means nothing, and is left out."""
    found = [
        KindError(_path(FOR), f"{word!r} is no network", "write ovn or <namespace>/<name>")
        for word in _words(notes.get(FOR, ""))
        if _provider(word) is None
    ]
    found += [
        KindError(_path(LOG_ACTIONS), f"{word!r} is no action", "write allow, drop or both")
        for word in _words(notes.get(LOG_ACTIONS, ""))
        if word not in {"allow", "drop", "pass"}
    ]
    rate = notes.get(LOG_RATE, "")
    if rate and not (rate.isdecimal() and int(rate) > 0):
        found.append(
            KindError(_path(LOG_RATE), f"{rate!r} is no rate", "give lines a second, from 1")
        )
    for name in ENFORCEMENT:
        said = notes.get(name, "")
        if said and said not in {"standard", "lax"}:
            found.append(KindError(_path(name), f"{said!r} is none", "write standard or lax"))
    return tuple(found)


def logging(notes: Mapping[str, str]) -> Logging:
    """What a policy's ACLs log; without a word of which, what they drop."""
    if notes.get(LOG) != "true":
        return Logging()
    actions = _words(notes.get(LOG_ACTIONS, "")) or ("drop",)
    rate = notes.get(LOG_RATE, "")
    return Logging("allow" in actions, "drop" in actions, int(rate) if rate.isdecimal() else 0)


def providers(notes: Mapping[str, str]) -> tuple[str, ...] | None:
    """Of whose interfaces it speaks; None: of all that a pod has."""
    words = _words(notes.get(FOR, ""))
    return tuple(sorted({one for one in map(_provider, words) if one})) if words else None


def _provider(word: str) -> str | None:
    if word.lower() == "ovn":
        return "ovn"
    namespace, slash, name = word.partition("/")
    return f"{name}.{namespace}.ovn" if slash and namespace and name else None


def lax(notes: Mapping[str, str]) -> bool | None:
    """How it is enforced, if it says so."""
    said = [notes[name] for name in ENFORCEMENT if notes.get(name) in {"standard", "lax"}]
    return said[0] == "lax" if said else None


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def _path(annotation: str) -> str:
    return f"metadata.annotations[{annotation}]"
