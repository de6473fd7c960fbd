"""A call of the plugin's executable, served in the daemon: it is spared the start of a Python.

The small program that a runtime starts hands its environment and standard input over as they are
(cni/launcher/launcher.c). What is right, what is refused, and in what words is the plugin's own
code, run here; only it asks the daemon's operations without a socket.
"""

from __future__ import annotations

from cni import plugin, quickjson, spec, wire
from controller.server import Ask, Printed


async def run(payload: bytes, ask: Ask) -> Printed:
    """What the executable prints, and its exit code."""
    try:
        environment, stdin = wire.parse_run(payload)
    except wire.WireError as error:
        refused = spec.CniError(spec.IO_FAILURE, str(error))
        return 1, _text(spec.error_object(refused, spec.NEWEST))
    steps = plugin.exchange(environment, lambda: stdin)
    try:
        _, op, args, _ = next(steps)
        while True:
            try:
                result = wire.parse_answer(await ask(op, args))
            except wire.RemoteError as error:
                _, op, args, _ = steps.throw(error)
            else:
                _, op, args, _ = steps.send(result)
    except StopIteration as end:
        status, obj = end.value
        return status, _text(obj)


def _text(obj: spec.Json | None) -> str:
    return "" if obj is None else quickjson.dumps(obj) + "\n"
