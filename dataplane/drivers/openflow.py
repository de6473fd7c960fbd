"""The table `flows`: our OpenFlow rules, through `ovs-ofctl`.

How we recognise our own after a restart: by the cookie (`dataplane.model.names.FLOW_COOKIE`), of
which the upper 16 bits are ours in every version of the pipeline.

Plans name ports; rules on the wire number them. OpenFlow cuts port names off after 15 bytes, which
ovn-controller's patch ports exceed, so names are not left to ovs-ofctl: they are translated here,
with the numbers that vswitchd keeps in OVSDB (Interface.ofport). A number that no port has (any
more) stays a number, so that such a rule equals no plan and is replaced.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplane.model.names import FLOW_COOKIE, FLOW_COOKIE_MASK
from dataplane.model.rows import Flow, FlowKey
from dataplane.ports import Failure, ObserveError

OPENFLOW_VERSIONS = "OpenFlow10,OpenFlow13,OpenFlow14"
DEFAULT_PRIORITY = 32768
"""Left out by ovs-ofctl when it prints a rule (ovs-ofctl(8), "priority")."""

TIMEOUT_S = 10

_NAMED = re.compile(r'(in_port=|output:)"([^"]*)"')
_NUMBERED = re.compile(r"(in_port=|output:)(\d+)(?![\w.])")
_LINE = re.compile(r"^\s*(?:cookie=\S+,\s*)?(?P<match>\S*)\s*actions=(?P<actions>.*)$")

BridgePorts = Mapping[str, Mapping[str, int]]
"""Bridge name -> port name -> OpenFlow port number."""


class UnknownPortError(Exception):
    """A rule names a port that has no OpenFlow number (yet)."""


def numbered(text: str, ports: Mapping[str, int]) -> str:
    """`text` with quoted port names replaced by numbers.

    Raises:
        UnknownPortError: there is no such port.
    """

    def number(match: re.Match[str]) -> str:
        name = match[2]
        if name not in ports:
            raise UnknownPortError(name)
        return f"{match[1]}{ports[name]}"

    return _NAMED.sub(number, text)


def named(text: str, names: Mapping[int, str]) -> str:
    """`text` with port numbers replaced by quoted names, where there is one."""

    def name(match: re.Match[str]) -> str:
        number = int(match[2])
        return f'{match[1]}"{names[number]}"' if number in names else match[0]

    return _NUMBERED.sub(name, text)


def parse_dump(bridge: str, text: str, ports: Mapping[str, int]) -> dict[FlowKey, Flow]:
    """Rules as `ovs-ofctl --no-stats dump-flows` prints them, with ports by name."""
    names = {number: name for name, number in ports.items()}
    flows: dict[FlowKey, Flow] = {}
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        fields = [field for field in found["match"].split(",") if field]
        priority = DEFAULT_PRIORITY
        rest: list[str] = []
        for field in fields:
            if field.startswith("priority="):
                priority = int(field.removeprefix("priority="))
            else:
                rest.append(field)
        key = FlowKey(bridge, priority, named(",".join(rest), names))
        flows[key] = Flow(named(found["actions"].strip(), names))
    return flows


def add_line(key: FlowKey, flow: Flow, ports: Mapping[str, int]) -> str:
    """One line for `ovs-ofctl add-flows` that makes the rule.

    Raises:
        UnknownPortError: it names a port that has no number.
    """
    match = numbered(key.match, ports)
    comma = "," if match else ""
    actions = numbered(flow.actions, ports)
    return f"add cookie={FLOW_COOKIE:#x},priority={key.priority}{comma}{match},actions={actions}"


def delete_line(key: FlowKey, ports: Mapping[str, int]) -> str:
    """One line for `ovs-ofctl add-flows` that removes the rule, if it is ours."""
    match = numbered(key.match, ports)
    comma = "," if match else ""
    cookie = f"cookie={FLOW_COOKIE & FLOW_COOKIE_MASK:#x}/{FLOW_COOKIE_MASK:#x}"
    return f"delete_strict {cookie},priority={key.priority}{comma}{match}"


@dataclass(frozen=True, slots=True)
class _Answer:
    ok: bool
    text: str

    @property
    def absent(self) -> bool:
        """The bridge's management socket is not there: no bridge, or no vswitchd."""
        return "connecting to" in self.text or "failed to connect" in self.text


class FlowsTable:
    """Table `flows`: FlowKey -> Flow, on the bridges that `bridge_ports` names.

    `bridge_ports` is asked in every call; `dataplane.drivers.ovsdb.Ovs.openflow_ports` is one. A
    bridge that is not there has no rules; one to be made there waits.
    """

    name = "flows"

    def __init__(self, rundir: str, bridge_ports: Callable[[], BridgePorts]) -> None:
        self._rundir = Path(rundir)
        self._bridge_ports = bridge_ports

    def observe(self) -> Mapping[FlowKey, Flow]:
        """All rules with our cookie."""
        flows: dict[FlowKey, Flow] = {}
        for bridge, ports in self._bridge_ports().items():
            cookie = f"cookie={FLOW_COOKIE & FLOW_COOKIE_MASK:#x}/{FLOW_COOKIE_MASK:#x}"
            answer = self._ofctl(["--no-names", "--no-stats", "dump-flows"], bridge, [cookie])
            if answer.ok:
                flows.update(parse_dump(bridge, answer.text, ports))
            elif not answer.absent:
                msg = f"the rules of {bridge} cannot be read: {answer.text}"
                raise ObserveError(msg)
        return flows

    def upsert(self, batch: Sequence[tuple[FlowKey, Flow]]) -> Mapping[FlowKey, Failure]:
        """Make the rules, those of one bridge in one bundle: all at once, or none."""
        bridges = self._bridge_ports()
        failures: dict[FlowKey, Failure] = {}
        lines: dict[str, dict[FlowKey, str]] = {}
        for key, flow in batch:
            if key.bridge not in bridges:
                failures[key] = Failure(f"bridge {key.bridge} is not there yet", waiting=True)
                continue
            try:
                line = add_line(key, flow, bridges[key.bridge])
            except UnknownPortError as error:
                reason = f"port {error} of {key.bridge} is not there yet"
                failures[key] = Failure(reason, waiting=True)
            else:
                lines.setdefault(key.bridge, {})[key] = line
        for bridge, by_key in lines.items():
            failures.update(self._send(bridge, by_key))
        return failures

    def delete(self, keys: Sequence[FlowKey]) -> Mapping[FlowKey, Failure]:
        """Remove the rules; one that is missing, or is not ours, is success."""
        bridges = self._bridge_ports()
        lines: dict[str, dict[FlowKey, str]] = {}
        for key in keys:
            if key.bridge in bridges:
                try:
                    lines.setdefault(key.bridge, {})[key] = delete_line(key, bridges[key.bridge])
                except UnknownPortError:
                    continue  # observed with a number, so it cannot name a port that is gone
        failures: dict[FlowKey, Failure] = {}
        for bridge, by_key in lines.items():
            failures.update({k: f for k, f in self._send(bridge, by_key).items() if not f.waiting})
        return failures

    def _send(self, bridge: str, lines: Mapping[FlowKey, str]) -> dict[FlowKey, Failure]:
        """One bundle; if it is refused, one by one, to name the culprit."""
        answer = self._ofctl(["--bundle", "add-flows"], bridge, ["-"], "\n".join(lines.values()))
        if answer.ok:
            return {}
        if answer.absent:
            reason = f"bridge {bridge} does not answer: is ovs-vswitchd running?"
            return {key: Failure(reason, waiting=True) for key in lines}
        if len(lines) == 1:
            return {key: Failure(answer.text) for key in lines}
        failures: dict[FlowKey, Failure] = {}
        for key, line in lines.items():
            failures.update(self._send(bridge, {key: line}))
        return failures

    def _ofctl(
        self, command: Sequence[str], bridge: str, args: Sequence[str], stdin: str = ""
    ) -> _Answer:
        target = f"unix:{self._rundir}/{bridge}.mgmt"
        argv = ["ovs-ofctl", f"--timeout={TIMEOUT_S}", f"--protocols={OPENFLOW_VERSIONS}"]
        try:
            done = subprocess.run(  # noqa: S603  # a list, and no shell
                [*argv, *command, target, *args],
                input=stdin + "\n",
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S + 5,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            msg = f"ovs-ofctl cannot be run for {bridge}: {error}"
            raise ObserveError(msg) from error
        if done.returncode == 0:
            return _Answer(ok=True, text=done.stdout)
        return _Answer(ok=False, text=done.stderr.strip().removeprefix("ovs-ofctl: "))
