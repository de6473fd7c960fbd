"""`millrace-cni`: the executable that a container runtime runs for each interface.

It checks what it was given, asks the node daemon over its socket, and prints the answer in the
form of the CNI version that the network configuration names. All work on the node is the
daemon's, so that a killed plugin leaves nothing half done.

A runtime starts it for every pod, so it imports os, sys, the C parts of json and socket, and `cni`
only; the figure is kept by `python -m perf.cni_start`.
"""

from __future__ import annotations

import os
import sys

from cni import asked, config, ipam, quickjson, spec, wire

TIMEOUTS_S = {"ADD": 60.0, "DEL": 30.0, "CHECK": 20.0, "STATUS": 5.0, "GC": 60.0}
"""How long the daemon gets, in seconds. Its own waits are shorter, so it answers first."""

MAX_TEXT = 4096
"""Characters of a message or detail that are printed."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    Call = Callable[[str, str, dict[str, object], float], dict[str, object]]
    Question = tuple[str, str, dict[str, object], float]


def main() -> int:
    """Answer one CNI command; the exit code. Environment and stdin are the arguments."""
    status, obj = answer(os.environ, lambda: sys.stdin.buffer.read(config.MAX_CONFIG_SIZE + 1))
    try:
        if obj is not None:
            sys.stdout.write(quickjson.dumps(obj) + "\n")
        sys.stdout.flush()
    except OSError:
        # Nobody reads: keep the interpreter from failing once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return status


def answer(
    env: Mapping[str, str], read: Callable[[], bytes], call: Call = wire.call
) -> tuple[int, spec.Json | None]:
    """Exit code and object to print, for one command. Never raises.

    `read` gives stdin's bytes, `call` asks the daemon as `cni.wire.call` does.
    """
    steps = exchange(env, read)
    try:
        question = next(steps)
        while True:
            try:
                result = call(*question)
            except Exception as error:  # noqa: BLE001 - `exchange` has the words for it
                question = steps.throw(error)
            else:
                question = steps.send(result)
    except StopIteration as end:
        status, obj = end.value
        return status, obj


def exchange(
    env: Mapping[str, str], read: Callable[[], bytes]
) -> Generator[Question, spec.Json, tuple[int, spec.Json | None]]:
    """As `answer`, but whoever runs it asks the daemon.

    It yields what `cni.wire.call` is called with, and is sent the result or thrown the error.
    """
    # An error has to carry the version of the configuration, as soon as that is known.
    version = spec.NEWEST
    try:
        command = _command(env)
        obj = _read_config(read, command)
        if command == "VERSION":
            named = obj.get("cniVersion")
            known = isinstance(named, str) and named in spec.VERSIONS
            return 0, spec.version_object(str(named) if known else version)
        version = config.parse_version(obj)
        config.require_command(version, command)
        if (part := ipam.section(obj)) is not None:
            own = config.NetworkConfig(ipam.network(obj, part, command), command)
            return 0, (yield from _give_addresses(own, command, version, env))
        network = config.NetworkConfig(obj, command)
        args = _request(command, network, env)
        result = yield from _ask(network, command, command.lower(), args)
        if command == "ADD":
            return 0, spec.result_object(result, version, network.dns)
    except spec.CniError as error:
        return 1, spec.error_object(_presentable(error), version)
    except Exception as error:  # noqa: BLE001 - a traceback is no CNI error object
        wrapped = spec.CniError(
            spec.INTERNAL, f"the plugin failed: {error!r}"[:MAX_TEXT], "this is a bug"
        )
        return 1, spec.error_object(wrapped, version)
    return 0, None


def _give_addresses(
    network: config.NetworkConfig, command: str, version: str, env: Mapping[str, str]
) -> Generator[Question, spec.Json, spec.Json | None]:
    """What to print as another plugin's IPAM."""
    if command in ("DEL", "GC"):
        # An address goes with its pod; nobody is asked, so a removal never waits for the daemon.
        return None
    op = "status" if command == "STATUS" else f"ipam_{command.lower()}"
    result = yield from _ask(network, command, op, _request(command, network, env))
    return ipam.result_object(result, version) if command == "ADD" else None


def _command(env: Mapping[str, str]) -> str:
    command = env.get("CNI_COMMAND", "")
    if command not in spec.COMMANDS_SINCE:
        msg = f"CNI_COMMAND is {command!r}"
        details = f"known: {', '.join(spec.COMMANDS_SINCE)}; a container runtime sets it"
        raise spec.CniError(spec.INVALID_ENVIRONMENT, msg, details)
    return command


def _read_config(read: Callable[[], bytes], command: str) -> spec.Json:
    try:
        data = read()
    except (OSError, ValueError, AttributeError) as error:
        # AttributeError: Python has no sys.stdin when descriptor 0 is closed.
        if command == "VERSION":
            return {}
        msg = f"cannot read the network configuration from stdin: {error}"
        raise spec.CniError(spec.IO_FAILURE, msg) from error
    try:
        return config.parse_config(data)
    except spec.CniError:
        # VERSION needs no configuration; what it can say does not depend on one.
        if command == "VERSION":
            return {}
        raise


def _request(command: str, network: config.NetworkConfig, env: Mapping[str, str]) -> spec.Json:
    """The arguments of the daemon's operation of the same name."""
    args: spec.Json = {"network": network.name}
    if command == "STATUS":
        return args
    if command == "GC":
        args["valid"] = network.valid
        return args
    args.update(_container(command, network, env))
    if command == "CHECK":
        args["prev_result"] = network.prev_result
    return args


def _container(command: str, network: config.NetworkConfig, env: Mapping[str, str]) -> spec.Json:
    """Which interface of which pod, from the environment."""
    bad: list[str] = []
    container_id = env.get("CNI_CONTAINERID", "")
    ifname = env.get("CNI_IFNAME", "")
    netns = env.get("CNI_NETNS", "")
    if not config.is_container_id(container_id):
        bad.append(f"CNI_CONTAINERID is {container_id!r}")
    if not config.is_ifname(ifname):
        bad.append(f"CNI_IFNAME is {ifname!r}")
    # A vhost-user port has no link in a namespace, and DEL works when the namespace is gone.
    needed = command != "DEL" and network.mode == "veth"
    if (netns or needed) and not netns.startswith("/"):
        bad.append(f"CNI_NETNS is {netns!r}, not an absolute path")
    elif needed and not os.path.exists(netns):  # noqa: PTH110 - pathlib is slow to import
        bad.append(f"CNI_NETNS is {netns!r}, which does not exist")
    if bad:
        msg = "invalid environment: " + "; ".join(bad)
        raise spec.CniError(spec.INVALID_ENVIRONMENT, msg)
    try:
        pod = config.parse_args(env.get("CNI_ARGS", ""))
    except spec.CniError:
        if command != "DEL":
            raise
        # A removal goes by container and interface; the pod's name is a help, not a need.
        pod = {}
    if command == "ADD":
        missing = [key for key in ("K8S_POD_NAME", "K8S_POD_NAMESPACE") if not pod.get(key)]
        if missing:
            msg = f"invalid environment: CNI_ARGS has no {' and no '.join(missing)}"
            details = "OVN's logical port is found by <pod>.<namespace>"
            raise spec.CniError(spec.INVALID_ENVIRONMENT, msg, details)
    return {
        "container_id": container_id,
        "ifname": ifname,
        "netns": netns,
        "pod": pod.get("K8S_POD_NAME", ""),
        "namespace": pod.get("K8S_POD_NAMESPACE", ""),
        "pod_uid": pod.get("K8S_POD_UID", ""),
        "mode": network.mode,
        "mtu": network.mtu,
        "queues": network.queues,
        "bandwidth": network.bandwidth,
        "provider": network.provider,
        "routes": network.routes,
        "socket_name": network.socket_name,
        "iface_id": network.iface_id,
        "cni_args": network.args if network.iface_id else {},
        "asked": {**asked.by_environment(pod), **network.asked} if command == "ADD" else {},
    }


def _ask(
    network: config.NetworkConfig, command: str, op: str, args: spec.Json
) -> Generator[Question, spec.Json, spec.Json]:
    """The daemon's result of an operation.

    Raises:
        CniError: the daemon said no, or is not there.
    """
    try:
        return (yield network.socket, op, args, TIMEOUTS_S[command])
    except wire.RemoteError as error:
        raise spec.CniError(error.code, error.msg, error.details) from error
    except wire.UnreachableError as error:
        code = spec.NOT_AVAILABLE if command == "STATUS" else spec.TRY_AGAIN_LATER
        raise spec.CniError(code, "the node daemon does not answer", str(error)) from error
    except wire.WireError as error:
        raise spec.CniError(spec.IO_FAILURE, str(error)) from error


def _presentable(error: spec.CniError) -> spec.CniError:
    """The same error with a code and texts that a runtime can take."""
    code = error.code if 1 <= error.code <= spec.MAX_CODE else spec.INTERNAL
    return spec.CniError(code, error.msg[:MAX_TEXT] or "no reason given", error.details[:MAX_TEXT])


if __name__ == "__main__":
    sys.exit(main())
