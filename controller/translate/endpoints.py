"""What a row says of single backends: the JSON in external_ids:millrace:endpoints.

    {"10.0.0.5:80": {"state": "ready", "weight": 3, "zones": ["a"], "nodes": ["n1"]}}

Every field may be missing: ready, weight 1, no hints. A text that cannot be read whole is refused
whole: half an endpoint's facts would send packets where nobody wants them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from controller.translate.vips import Fault, l4
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.service import EndpointState

MAX_WEIGHT = 65535
_FIELDS = ("state", "weight", "zones", "nodes")
_STATES = ", ".join(EndpointState)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The facts of one backend; see `dataplane.model.service.Backend`."""

    state: EndpointState = EndpointState.READY
    weight: int = 1
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


Endpoints = Mapping[L4Addr, Endpoint]


class _Refused(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.cause)
        self.fault = fault


@lru_cache(maxsize=1024)
def endpoints(protocol: Protocol, text: str) -> Endpoints | Fault:
    """The facts by backend, or what is wrong with the text."""
    try:
        document = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_no_number
        )
        return _of_document(protocol, document)
    except _Refused as error:
        return error.fault
    except (ValueError, RecursionError) as error:
        # ValueError also for what json leaves to int(): more digits than Python converts.
        return Fault(f"it is not JSON: {_shown(str(error))}", "mend it; `python3 -m json.tool`")


def _of_document(protocol: Protocol, document: object) -> Endpoints:
    if not isinstance(document, dict):
        raise _Refused(Fault("it is no JSON object", 'write {"10.0.0.5:80": {"weight": 3}}'))
    found: dict[L4Addr, Endpoint] = {}
    for key, value in document.items():
        target = l4(protocol, key)
        if isinstance(target, Fault):
            raise _Refused(Fault(f"backend {_shown(key)}: {target.cause}", target.next_step))
        if target in found:
            raise _Refused(Fault(f"backend {target} is in it twice", "name it once"))
        found[target] = _endpoint(key, value)
    return found


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(Fault(f"{_shown(twice)} is in one object twice", "name it once"))
    return found


def _no_number(text: str) -> object:
    step = f"weights are integers from 1 to {MAX_WEIGHT}"
    raise _Refused(Fault(f"{_shown(text)} is not an integer", step))


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _endpoint(key: str, value: object) -> Endpoint:
    if not isinstance(value, dict):
        raise _Refused(Fault(f"what it says of {_shown(key)} is no object", 'write {"weight": 3}'))
    for name in value:
        if name not in _FIELDS:
            near = difflib.get_close_matches(str(name)[:40], _FIELDS, n=1)
            step = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(_FIELDS)}"
            raise _Refused(Fault(f"{_shown(key)} has an unknown field {_shown(str(name))}", step))
    state, weight = value.get("state", "ready"), value.get("weight", 1)
    if not isinstance(state, str) or state not in set(EndpointState):
        cause = f"the state of {_shown(key)} is not one of {_STATES}"
        raise _Refused(Fault(cause, "use one of these"))
    if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
        raise _Refused(
            Fault(
                f"the weight of {_shown(key)} is no integer of 1..{MAX_WEIGHT}",
                "use an integer in that range; to take no traffic, state unready",
            )
        )
    return Endpoint(
        EndpointState(state), weight, _names(key, "zones", value), _names(key, "nodes", value)
    )


def _names(key: str, field: str, value: Mapping[str, object]) -> tuple[str, ...]:
    names = value.get(field, [])
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        cause = f"{field} of {_shown(key)} is no list of names"
        raise _Refused(Fault(cause, f'write "{field}": ["a"]'))
    return tuple(sorted(set(names)))
