"""The subcommands that ask the daemon: status, ports, apply."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cni.wire import RemoteError, WireError, call
from controller.cli import failures
from controller.cli.main import DEFAULT_CONFIG
from controller.cli.render import Json, child, children, duration, has_colour, table
from controller.config import load_node, rundir_of

TIMEOUT_S = 10.0
CENTRAL_TIMEOUT_S = 2.0
"""Its line is an extra: a cluster controller that hangs must not keep the node's status back."""

APPLY_TIMEOUT_S = 60.0

CODE_CONFIG = 110
"""`controller.agent_api`'s code for a refused file; importing it would load every driver."""


def _socket(arguments: argparse.Namespace) -> str:
    """The daemon's socket. A file with faults elsewhere still says where the daemon is."""
    if arguments.socket:
        return str(arguments.socket)
    return str(rundir_of(Path(arguments.config)) / "agent.sock")


def ask(arguments: argparse.Namespace, op: str, **args: object) -> dict[str, object]:
    """The daemon's answer to an operation."""
    return call(_socket(arguments), op, args, TIMEOUT_S)


def show(arguments: argparse.Namespace, answer: Json, text: str) -> None:
    """Print an answer, as JSON if that is asked for."""
    print(json.dumps(answer, indent=2, sort_keys=True) if arguments.json else text)


def status(arguments: argparse.Namespace) -> int:
    """`millrace status`: 0 if everything is as planned, 4 if not."""
    answer = ask(arguments, "status", all=arguments.all)
    central = _central(Path(_socket(arguments)).with_name("central.sock"))
    if central:
        answer["central"] = central
    show(arguments, answer, status_text(answer, colour=has_colour(sys.stdout)))
    return failures.DEGRADED if faults_of(answer) else failures.OK


def _central(socket: Path) -> Json:
    """What the cluster controller beside the daemon says; empty where none runs."""
    try:
        return call(str(socket), "status", {}, CENTRAL_TIMEOUT_S)
    except (WireError, RemoteError):
        return {}


def faults_of(answer: Json) -> list[str]:
    """Why a status is not "all is well", in words; empty if it is."""
    found = []
    if answer.get("converged") is not True:
        found.append("not converged")
    if child(answer, "ovs").get("connected") is not True:
        found.append("OVS is out of reach")
    if problem := child(answer, "last_apply").get("problem"):
        found.append(str(problem))
    found += [
        f"OVN's {label} database is out of reach"
        for key, label in (("nb", "northbound"), ("sb", "southbound"))
        if not _is_connected(child(answer, "ovn").get(key))
    ]
    found += [
        f"{row['error']} in error in table {row.get('name')}"
        for row in children(answer, "tables")
        if row.get("error")
    ]
    return found


def _is_connected(value: object) -> bool:
    return value is True or value == "connected"


def _containers_text(containers: Json) -> str:
    """Where a new container would be attached, and why not on the trunk."""
    now = {
        "trunk": "on the trunk",
        "port": "an OVS port each",
        "waiting": "the trunk is being made",
    }
    text = f"{now.get(str(containers.get('now')), '?')}, {containers.get('on_trunk', 0)} on it"
    reason = containers.get("reason")
    return f"{text}: {reason}" if reason else text


def _host_text(host: Json) -> str:
    """By what the node's kernel reaches workloads."""
    addresses = " ".join(map(str, _list(host.get("addresses"))))
    routes = [route for route in _list(host.get("routes")) if isinstance(route, dict)]
    networks = " ".join(str(route.get("network")) for route in routes)
    return f"{host.get('link')} {addresses}, to {networks or 'no network of a VPC'}"


def status_text(answer: Json, *, colour: bool) -> str:
    """The answer to `status` for people."""
    ovs, ovn, apply_ = child(answer, "ovs"), child(answer, "ovn"), child(answer, "last_apply")
    gateway = child(answer, "gateway")
    faults = faults_of(answer)
    head = [
        ("node", f"{answer.get('node', '?')}, pid {answer.get('pid', '?')},"
         f" up {duration(answer.get('uptime_s'))}"),
        ("state", "; ".join(faults) if faults else "converged"),
        ("last apply", _apply_text(apply_)),
        ("ovs", _ovs_text(ovs)),
        ("ovn", ", ".join(
            f"{key} {'connected' if _is_connected(ovn.get(key)) else 'out of reach'}"
            for key in ("nb", "sb")
        )),
        ("gateway", "none in OVN for this node: no service is on the fast path"
         if not gateway else
         f"{gateway.get('router')}, {' '.join(map(str, _list(gateway.get('addresses'))))},"
         f" on {gateway.get('physnet')}, services from {gateway.get('service_address')}"),
    ]  # fmt: skip
    if host := child(answer, "host"):
        head.append(("host", _host_text(host)))
    if containers := child(answer, "containers"):
        head.append(("containers", _containers_text(containers)))
    wins = child(ovs, "foreign_wins")
    head += [
        (
            "foreign",
            f"{key}={value} in OVS is not ours, and is left alone"
            + (f"; the plan has {_list(wins[key])[-1]}" if _list(wins.get(key)) else ""),
        )
        for key, value in sorted(child(ovs, "foreign_settings").items())
    ]
    head += [
        ("overwrote", f"{key}={value} was set by hand; the file names the key, so its value holds")
        for key, value in sorted(child(ovs, "overwrote").items())
    ]
    head += [
        ("restart", f"{key} waits for it: {_or_default(old)} -> {_or_default(new)}")
        for key, value in sorted(child(child(answer, "ovs"), "restart_pending").items())
        for old, new in [_list(value)]
    ]
    head += [("cannot", str(text)) for text in _list(child(answer, "ovs").get("cannot"))]
    head += [("untested", str(text)) for text in _list(answer.get("untested"))]
    if central := child(answer, "central"):
        head.append(("central", _central_text(central)))
    blocks = ["\n".join(f"{name:<11} {text}" for name, text in head)]
    blocks.append(
        table(
            ("TABLE", "ROWS", "PENDING", "ERROR"),
            (
                (row.get("name"), row.get("rows"), row.get("pending"), row.get("error"))
                for row in children(answer, "tables")
            ),
            colour=colour,
        )
    )
    blocks.append(
        table(
            ("TABLE", "KEY", "STATE", "SINCE", "ATTEMPTS", "REASON"),
            (
                (
                    row.get("table"),
                    row.get("key"),
                    "quarantined" if row.get("quarantined") else row.get("state"),
                    row.get("since"),
                    row.get("attempts"),
                    row.get("reason"),
                )
                for row in children(answer, "objects")
            ),
            colour=colour,
        )
    )
    blocks += [
        _columns(children(answer, key), columns, colour=colour)
        for key, columns in (
            ("programs", ("device", "kind", "attached", "id", "tag")),
            ("conditions", ("kind", "subject", "cause", "next_step")),
            ("problems", ("name", "cause", "next_step")),
        )
    ]
    return "\n\n".join(block for block in blocks if block)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _apply_text(apply_: Json) -> str:
    if not apply_:
        return "none yet"
    took = apply_.get("ms")
    ms = f"{took:.1f}" if isinstance(took, int | float) else "?"
    return f"{apply_.get('writes', '?')} writes in {ms} ms, at {apply_.get('at', '?')}"


def _central_text(central: Json) -> str:
    if central.get("in_sync") is not True:
        state = "not in sync with OVN's databases"
    elif central.get("active") is not True:
        state = "stands by for another"
    else:
        state = "active"
    rows = sum(count for count in child(central, "rows").values() if isinstance(count, int))
    text = f"pid {central.get('pid', '?')}, {state}, {rows} rows in OVN"
    for key in ("unfinished", "problems"):
        if count := len(children(central, key)):
            text += f", {count} {key}"
    if problem := central.get("config_problem"):
        # One line: the rest is in --json.
        text += f", its file is refused: {str(problem).splitlines()[0]}"
    return text


def _ovs_text(ovs: Json) -> str:
    if ovs.get("connected") is not True:
        return "out of reach"
    text = f"connected, {ovs.get('version') or 'version unknown'}"
    # vswitchd's own dpdk_version begins with the word already.
    dpdk = str(ovs.get("dpdk") or "").removeprefix("DPDK ")
    text += f", DPDK {dpdk}" if dpdk else ", without DPDK"
    if ovs.get("restarts"):
        outage = ovs.get("last_outage_ms")
        text += f", seen to restart {ovs['restarts']} times"
        text += f", the last outage {outage:.0f} ms" if isinstance(outage, int | float) else ""
    return text


def _columns(rows: list[Json], keys: tuple[str, ...], *, colour: bool) -> str:
    """Some columns of rows, headed by their own names."""
    headers = [key.replace("_", " ").upper() for key in keys]
    return table(headers, ([row.get(key) for key in keys] for row in rows), colour=colour)


def ports(arguments: argparse.Namespace) -> int:
    """`millrace ports`."""
    answer = ask(arguments, "ports")
    show(arguments, answer, ports_text(answer, colour=has_colour(sys.stdout)))
    return failures.OK


def ports_text(answer: Json, *, colour: bool) -> str:
    """The answer to `ports` for people."""
    keys = ("iface_id", "device", "kind", "mac", "addresses", "mtu", "state", "link", "vrings",
            "numa", "rx_packets", "tx_packets", "reason")  # fmt: skip
    headers = ("PORT", "DEVICE", "KIND", "MAC", "ADDRESSES", "MTU", "STATE", "LINK", "VRINGS",
               "NUMA", "RX", "TX", "REASON")  # fmt: skip
    rows = [tuple(row.get(key) for key in keys) for row in children(answer, "ports")]
    return table(headers, rows, colour=colour) or "no ports"


def apply(arguments: argparse.Namespace) -> int:
    """`millrace apply`: the file is checked here first, then the daemon takes it over.

    The daemon checks again, with the machine's facts; until then its last good file is in force.
    """
    path = Path(arguments.file or arguments.config or DEFAULT_CONFIG).resolve()
    arguments.config = arguments.config or path
    load_node(path)
    try:
        answer = call(_socket(arguments), "apply", {"path": str(path)}, APPLY_TIMEOUT_S)
    except RemoteError as error:
        if error.code != CODE_CONFIG:
            raise
        message = f"{error.msg}\n{error.details}"
        raise failures.CommandError(message, failures.USAGE) from error
    show(arguments, answer, apply_text(answer))
    return failures.OK


def apply_text(answer: Json) -> str:
    """The answer to `apply` for people."""
    changed = [str(item) for item in _list(answer.get("changed"))]
    pending = [str(item) for item in _list(answer.get("restart_pending"))]
    lines = [f"changed: {', '.join(changed)}" if changed else "nothing changed"]
    if pending:
        lines.append(f"takes effect when ovs-vswitchd restarts: {', '.join(pending)}")
    return "\n".join(lines)


def _or_default(value: object) -> str:
    return "(OVS's default)" if value is None else str(value)
